#include <algorithm>
#include <cstring>
#include <format>

#include "tests/unit/migrate/handover_model.h"

namespace model {
namespace {

constexpr uint8_t kArrivingStep = static_cast<uint8_t>(static_cast<int>(box::MoveStep::kArriving) + 1);

std::string name(uint8_t node) { return std::string(1, static_cast<char>('A' + node)); }

std::string describe(const Step& step) { return name(step.node) + " " + step.what; }

/// What happens next where nothing fails, and nobody loses patience while anything can happen; null: nothing.
const Step* chosen(const std::vector<Step>& steps) {
  for (Kind kind : {Kind::kProgress, Kind::kGivesUp})
    if (auto found = std::ranges::find(steps, kind, &Step::kind); found != steps.end()) return &*found;
  return nullptr;
}

/// Lets all commands go on until nothing happens any more.
void run_to_the_end(const Protocol& protocol, const Limits& limits, State& state,
                    std::vector<std::string>* trace) {
  for (int count = 0; count < 1000; ++count) {
    const std::vector<Step> next = steps(protocol, limits, state);
    const Step* step = chosen(next);
    if (!step) return;
    if (trace) trace->push_back(describe(*step));
    state = step->next;
  }
}

struct Hash {
  size_t operator()(const State& state) const {
    std::array<uint64_t, (sizeof(State) + 7) / 8> words{};
    std::memcpy(words.data(), &state, sizeof state);
    uint64_t h = 0x9e3779b97f4a7c15;
    for (uint64_t word : words) h = (h ^ word) * 0xff51afd7ed558ccd, h ^= h >> 32;
    return h;
  }
};

/// The states that were found, in the order in which they were, and where each came from.
class Visited {
 public:
  /// The state's number; a new one if it was not there.
  uint32_t add(const State& state, uint32_t parent, const char* what, uint8_t node) {
    if (states_.size() * 2 >= table_.size()) grow();
    uint32_t& slot = find(state);
    if (slot != kEmpty) return slot;
    slot = static_cast<uint32_t>(states_.size());
    states_.push_back(state);
    origins_.push_back({parent, node, what});
    return slot;
  }
  [[nodiscard]] size_t size() const { return states_.size(); }
  const State& operator[](size_t i) const { return states_[i]; }
  [[nodiscard]] std::vector<std::string> trace(uint32_t to) const {
    std::vector<std::string> steps;
    for (; to != 0; to = origins_[to].parent)
      steps.push_back(name(origins_[to].node) + " " + origins_[to].what);
    std::ranges::reverse(steps);
    return steps;
  }

 private:
  static constexpr uint32_t kEmpty = ~0U;
  struct Origin {
    uint32_t parent;
    uint8_t node;
    const char* what;
  };
  uint32_t& find(const State& state) {
    size_t at = Hash()(state) & (table_.size() - 1);
    while (table_[at] != kEmpty && states_[table_[at]] != state) at = (at + 1) & (table_.size() - 1);
    return table_[at];
  }
  void grow() {
    table_.assign(table_.size() * 2, kEmpty);
    for (uint32_t i = 0; i < states_.size(); ++i) find(states_[i]) = i;
  }
  std::vector<State> states_;
  std::vector<Origin> origins_;
  std::vector<uint32_t> table_ = std::vector<uint32_t>(1024, kEmpty);
};

/// From every state the commands come to an end: there is no circle among the states after one another.
void require_ends(const std::vector<uint32_t>& after, const Visited& visited, Found& found) {
  std::vector<uint32_t> seen_from(after.size(), ~0U);
  for (uint32_t start = 0; start < after.size(); ++start)
    for (uint32_t i = start; seen_from[i] != start && after[i] != i; i = after[i]) {
      if (seen_from[i] != ~0U && seen_from[i] != start) break;  // looked at before
      seen_from[i] = start;
      if (seen_from[after[i]] != start) continue;
      found.law = "two commands keep each other busy for ever";
      found.trace = visited.trace(i);
      return;
    }
}

}  // namespace

std::string broken(const Limits& limits, const State& state) {
  for (uint8_t n = 0; n < limits.nodes; ++n) {
    const Node& node = state.nodes[n];
    if (node.process == kRuns && state.owner != n) {
      for (uint8_t other = 0; other < limits.nodes; ++other)
        if (other != n && state.nodes[other].process == kRuns)
          return std::format("the box runs on {} and on {}", name(n), name(other));
      if (state.owner == kNobody) return "the box was destroyed, and runs on " + name(n);
      return std::format("the box runs on {} while it is {}'s", name(n), name(state.owner));
    }
    if (node.process == kRuns && node.lacks && node.brings == kNoBringer && !node.guard)
      return std::format("the box runs on {} with memory that is missing and reads as zeros", name(n));
    if (node.process == kSealed && node.seen.arriving && node.seen.a_step != kArrivingStep)
      return name(n) + " has written prepared, and the box may run already";
  }
  if (state.wrong & kMemoryForgotten) return "memory that was still on its way was forgotten at its source";
  if (state.wrong & kRunsWithoutBringer) return "the box was let run, and nobody brings the memory it lacks";
  return {};
}

std::string broken_in_the_end(const Protocol& protocol, const Limits& limits, State state, Order order,
                              std::vector<std::string>* trace) {
  run_to_the_end(protocol, limits, state, trace);
  for (int turn = 0; turn < 2; ++turn)
    for (const char* what : {kRecoverArriving, kRecoverBox})
      for (uint8_t k = 0; k < limits.nodes; ++k) {
        const uint8_t n = order == Order::kBackward ? static_cast<uint8_t>(limits.nodes - 1 - k) : k;
        for (const Step& step : steps(protocol, limits, state)) {
          if (step.node != n || step.what != what) continue;
          if (trace) trace->push_back(describe(step));
          state = step.next;
          break;
        }
        if (order != Order::kAtOnce || k + 1U == limits.nodes) run_to_the_end(protocol, limits, state, trace);
      }
  if (std::string law = broken(limits, state); !law.empty()) return law;
  int owners = 0;
  for (uint8_t n = 0; n < limits.nodes; ++n) {
    const Node& node = state.nodes[n];
    owners += node.seen.here && !node.seen.step;
    if (state.destroyed == 2) continue;  // nobody can know what became of it
    if (node.process == kFrozen || node.process == kSealed)
      return "a frozen copy stays on " + name(n) + " for ever";
    if (node.seen.arriving) return "what has arrived on " + name(n) + " stays there for ever";
    if (node.seen.here && node.seen.step) return "the move stays unfinished on " + name(n) + " for ever";
  }
  if (owners != (state.destroyed ? 0 : 1)) return std::format("{} nodes have the box in the end", owners);
  return {};
}

Found search(const Protocol& protocol, const Limits& limits) {
  Found found;
  Visited visited;
  visited.add(initial(), 0, "", 0);
  std::vector<uint32_t>
      after;  // each state's next one where nothing fails; itself where nothing happens any more
  for (uint32_t i = 0; i < visited.size() && found.law.empty(); ++i) {
    const State state = visited[i];
    const std::vector<Step> next = steps(protocol, limits, state);
    const Step* quiet = chosen(next);
    after.push_back(i);
    found.law = broken(limits, state);
    if (!found.law.empty()) found.trace = visited.trace(i);
    // Where something happens still, the end is that of the state after it, which is among these too.
    if (found.law.empty() && !quiet)
      for (Order order : {Order::kForward, Order::kBackward, Order::kAtOnce}) {
        found.law = broken_in_the_end(protocol, limits, state, order, nullptr);
        if (found.law.empty()) continue;
        found.trace = visited.trace(i);
        found.trace.emplace_back("(from here on nothing fails, and recover is run everywhere)");
        broken_in_the_end(protocol, limits, state, order, &found.trace);
        break;
      }
    for (const Step& step : next) {
      const uint32_t at = visited.add(step.next, i, step.what, step.node);
      if (&step == quiet) after.back() = at;
    }
  }
  found.states = visited.size();
  if (found.law.empty()) require_ends(after, visited, found);
  return found;
}

}  // namespace model
