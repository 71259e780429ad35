#include "migrate/settle.h"

#include <thread>

#include "base/error.h"
#include "base/log.h"
#include "base/pause.h"
#include "box/cgroup.h"
#include "box/checkpoint.h"
#include "box/runtime.h"
#include "migrate/arrival.h"
#include "migrate/preflight.h"
#include "migrate/transport.h"

namespace migrate {
namespace {

using namespace std::chrono_literals;
using Json = nlohmann::json;

// What one end says of a move.
constexpr const char* kGiven = "given";          // to the destination
constexpr const char* kKept = "kept";            // by the source
constexpr const char* kUndecided = "undecided";  // ask again
constexpr const char* kRunning = "running";      // at the destination
constexpr const char* kUnknown = "unknown";      // never heard of it

Json about(const std::string& id, const std::string& name) {
  return {{"protocol", kProtocol}, {"id", id}, {"box", name}};
}

/// One question and its answer over a connection of its own.
std::string exchange(const std::vector<std::string>& rsh, const std::string& node, Frame type,
                     const Json& message) {
  Transport transport(rsh, node, {"drover-node", "receive"});
  Wire wire(transport.in(), transport.out(), 10s);
  wire.send_json(type, message);
  std::string verdict = wire.expect_json(Frame::kAnswer, 90s).at("verdict");
  transport.finish();
  return verdict;
}

/// Tries until `done` says so or the time is over; the pause grows, so that two ends that ask each
/// other at once do not stay in step.
bool insist(std::chrono::milliseconds patience, const std::function<bool()>& done) {
  const auto deadline = std::chrono::steady_clock::now() + patience;
  for (auto pause = 300ms;; pause = std::min(pause * 2, std::chrono::milliseconds(4000))) {
    try {
      if (done()) return true;
    } catch (const base::Error& e) {
      base::debug("{}", e.render());
    }
    if (std::chrono::steady_clock::now() + pause > deadline) return false;
    std::this_thread::sleep_for(pause);
  }
}

/// The source's word on a move. Reads without a lock where the answer cannot change any more.
std::string judge(const base::Context& context, const std::string& id, const std::string& name) {
  const box::Paths paths = box::paths_of(context, name);
  const auto config = box::find_config(context, name);
  if (!config) return kUnknown;
  auto move = box::find_move(paths);
  if (!move) return kKept;           // settled already, or a box that never left
  if (move->id != id) return kKept;  // a later move: so that one had ended with the box here
  if (move->step == box::MoveStep::kGiven) return kGiven;
  // Its command lives, and decides; or it is dead, and so nobody has given the box away.
  auto lock = box::try_lock_box(context, name);
  if (!lock) return kUndecided;
  move = box::find_move(paths);
  if (move && move->step == box::MoveStep::kGiven) return kGiven;
  if (move) keep_box(context, *config);
  return kKept;
}

Settled settle_leaving(const base::Context& context, const box::Config& config, const box::Move& move) {
  keep_box(context, config);
  // The other node finds out by itself as well; this is only to free it sooner.
  try {
    exchange(move.rsh, move.peer, Frame::kSettle, [&] {
      Json m = about(move.id, config.name);
      m["verdict"] = kKept;
      return m;
    }());
  } catch (const base::Error& e) {
    base::debug("{}", e.render());
  }
  return {config.name, "box " + config.name + " stays here: its move to " + move.peer + " was not finished"};
}

Settled settle_given(const base::Context& context, const box::Config& config, const box::Move& move) {
  // It will never run here again, so its frozen copy need not wait for the other node.
  box::tear_down(context, box::paths_of(context, config.name), config.name);
  if (!tell_destination(context, move, config.name, 30s))
    return {config.name,
            "box " + config.name + " was given to " + move.peer +
                ", which does not answer: bring it back, then run recover again",
            true};
  forget_box(context, config, move.epoch + 1);
  return {config.name, "box " + config.name + " runs on " + move.peer + " since its move"};
}

Settled settle_arrival(const base::Context& context, const std::string& name,
                       const std::vector<std::string>& rsh) {
  const box::Paths paths = box::arriving_paths_of(context, name);
  auto move = box::find_move(paths);
  if (!move || move->step == box::MoveStep::kArriving) {
    drop_arrival(context, name);
    return {name, "box " + name + " did not arrive here: what had come of it was removed"};
  }
  const box::Config config = box::Config::parse(base::read_file(paths.config));
  const std::string peer = move->peer;
  if (move->step == box::MoveStep::kPrepared) {
    move->rsh = rsh;
    if (!ask_source(context, paths, *move, config, 30s)) {
      if (base::exists(paths.dir))
        return {name,
                "box " + name + " is here frozen, and " + peer +
                    " does not say whose it is: run recover again when " + peer + " answers",
                true};
      return {name, "box " + name + " stays on " + peer + ": what had come of it here was removed"};
    }
  }
  take_over(context, name);
  return {name, "box " + name + " runs here since its move from " + peer};
}

}  // namespace

std::chrono::milliseconds ask_patience() { return 60s; }

bool ask_source(const base::Context& context, const box::Paths&, const box::Move& move,
                const box::Config& config, std::chrono::milliseconds patience) {
  std::string verdict;
  const auto rsh = move.rsh.empty() ? rsh_words("") : move.rsh;
  bool heard = insist(patience, [&] {
    verdict = exchange(rsh, move.peer, Frame::kAsk, about(move.id, config.name));
    return verdict == kGiven || verdict == kKept;
  });
  if (!heard) return false;
  if (verdict == kGiven) return true;
  drop_arrival(context, config.name);
  return false;
}

bool tell_destination(const base::Context&, const box::Move& move, const std::string& name,
                      std::chrono::milliseconds patience) {
  Json decision = about(move.id, name);
  decision["verdict"] = kGiven;
  return insist(patience,
                [&] { return exchange(move.rsh, move.peer, Frame::kSettle, decision) == kRunning; });
}

void keep_box(const base::Context& context, const box::Config& config) {
  const box::Paths paths = box::paths_of(context, config.name);
  box::wait_for_criu(paths.criu_lock);
  const box::Cgroup group(paths.cgroup);
  if (box::find_init(group)) {
    box::open_network(config);
    group.thaw();
  }
  base::remove_tree(paths.images);
  box::end_move(paths);
}

void forget_box(const base::Context& context, const box::Config& config, uint64_t new_epoch) {
  const box::Paths paths = box::paths_of(context, config.name);
  box::tear_down(context, paths, config.name);
  box::remember_given(context, config, new_epoch);
  box::remove_box_dir(context, paths.dir);
}

void answer_question(const base::Context& context, Wire& wire, const Json& question) {
  const std::string name = question.value("box", "");
  box::check_name(name);
  wire.send_json(Frame::kAnswer, {{"verdict", judge(context, question.value("id", ""), name)}});
}

void answer_decision(const base::Context& context, Wire& wire, const Json& decision) {
  const std::string name = decision.value("box", ""), id = decision.value("id", ""),
                    verdict = decision.value("verdict", "");
  box::check_name(name);
  auto answer = [&](const char* word) { wire.send_json(Frame::kAnswer, {{"verdict", word}}); };
  auto lock = box::try_lock_box(context, name);
  if (!lock) return answer(kUndecided);

  const box::Paths paths = box::arriving_paths_of(context, name);
  auto move = box::find_move(paths);
  if (move && move->id == id) {
    if (verdict == kKept && move->step != box::MoveStep::kMine) {
      drop_arrival(context, name);
      return answer(kKept);
    }
    if (verdict == kGiven && move->step != box::MoveStep::kArriving) {
      take_over(context, name);
      return answer(kRunning);
    }
  }
  // Taken over before: perhaps cut off half-way.
  if (auto config = box::find_config(context, name)) {
    if (auto mine = box::find_move(box::paths_of(context, name)); mine && mine->id == id) {
      take_over(context, name);
      return answer(kRunning);
    }
    if (config->last_move == id) return answer(kRunning);
  }
  answer(kUnknown);
}

std::vector<Settled> recover(const base::Context& context, const std::vector<std::string>& rsh) {
  std::vector<Settled> out;
  auto settle = [&](const std::string& name, auto work) {
    auto lock = box::try_lock_box(context, name);
    if (!lock) {
      out.push_back({name, "box " + name + " is busy: a command is working on it", true});
      return;
    }
    try {
      if (auto settled = work()) out.push_back(*settled);
    } catch (base::Error& e) {
      out.push_back(
          {name, "box " + name + ": " + e.message() + (e.hint().empty() ? "" : " (" + e.hint() + ")"), true});
    }
  };
  for (const auto& name : box::arriving_names(context))
    settle(name, [&]() -> std::optional<Settled> { return settle_arrival(context, name, rsh); });
  for (const auto& name : box::box_names(context))
    settle(name, [&]() -> std::optional<Settled> {
      const auto config = box::find_config(context, name);
      const auto move = box::find_move(box::paths_of(context, name));
      if (!config || !move) return std::nullopt;
      switch (move->step) {
        case box::MoveStep::kLeaving:
          return settle_leaving(context, *config, *move);
        case box::MoveStep::kGiven:
          return settle_given(context, *config, *move);
        default:
          take_over(context, name);
          return Settled{name, "box " + name + " runs here since its move from " + move->peer};
      }
    });
  return out;
}

}  // namespace migrate
