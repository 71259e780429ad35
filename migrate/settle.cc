#include "migrate/settle.h"

#include <algorithm>
#include <thread>

#include "base/error.h"
#include "base/log.h"
#include "base/pause.h"
#include "box/runtime.h"
#include "migrate/arrival.h"
#include "migrate/departure.h"
#include "migrate/preflight.h"
#include "migrate/rules.h"
#include "migrate/shelf.h"
#include "migrate/transport.h"

namespace migrate {
namespace {

using namespace std::chrono_literals;
using Json = nlohmann::json;

/// What a question or a decision is about.
struct Matter {
  std::string id;    ///< of the move
  std::string name;  ///< of the box
  std::string uuid;
  uint64_t epoch = 0;  ///< of the box before the move

  [[nodiscard]] Json json() const {
    return {{"protocol", kProtocol}, {"id", id}, {"box", name}, {"uuid", uuid}, {"epoch", epoch}};
  }
  static Matter parse(const Json& json) {
    Matter m;
    try {
      m.id = json.at("id");
      m.name = json.at("box");
      m.uuid = json.at("uuid");
      m.epoch = json.at("epoch");
    } catch (const nlohmann::json::exception&) {
      throw base::error("the other node's question lacks something, or it is of the wrong type");
    }
    box::check_name(m.name);
    if (!box::is_hex_id(m.uuid)) throw base::error("the other node's question names no box");
    if (!box::is_hex_id(m.id)) throw base::error("the other node's question names no move");
    return m;
  }
};

/// The verdict in a message; kUndecided where there is none that we know.
Verdict verdict_in(const Json& message) {
  const auto found = message.find("verdict");
  return found != message.end() && found->is_string() ? verdict_of(found->get_ref<const std::string&>())
                                                      : Verdict::kUndecided;
}

Matter about(const box::Move& move, const box::Config& config) {
  return {move.id, config.name, config.uuid, move.epoch};
}

/// A decision that one node tells the other.
Json decision_about(const box::Move& move, const box::Config& config, Verdict verdict) {
  Json decision = about(move, config).json();
  decision["verdict"] = to_string(verdict);
  return decision;
}

/// One question and its answer over a connection of its own.
Verdict exchange(const std::vector<std::string>& rsh, const std::string& node, Frame type,
                 const Json& message) {
  Transport transport(rsh, node, {"drover-node", "receive"});
  Wire wire(transport.in(), transport.out(), 10s);
  wire.send_json(type, message);
  const Verdict verdict = verdict_in(wire.expect_json(Frame::kAnswer, 90s));
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

/// Asks, or tells, until the answer is one of `final` or the time is over. Returns the last answer; nullopt:
/// there was none.
std::optional<Verdict> insist(const std::vector<std::string>& rsh, const std::string& node, Frame type,
                              const Json& message, std::chrono::milliseconds patience,
                              std::initializer_list<Verdict> final) {
  std::optional<Verdict> verdict;
  insist(patience, [&] {
    verdict = exchange(rsh, node, type, message);
    return std::ranges::contains(final, *verdict);
  });
  return verdict;
}

std::optional<Verdict> ask(const box::Move& move, const box::Config& config,
                           std::chrono::milliseconds patience) {
  return insist(move.rsh.empty() ? rsh_words("") : move.rsh, move.peer, Frame::kAsk,
                about(move, config).json(), patience, {Verdict::kGiven, Verdict::kKept, Verdict::kUnknown});
}

std::optional<Verdict> tell(const box::Move& move, const box::Config& config,
                            std::chrono::milliseconds patience, const std::function<bool()>& in_the_way) {
  std::optional<Verdict> verdict;
  insist(patience, [&] {
    verdict = exchange(move.rsh, move.peer, Frame::kSettle, decision_about(move, config, Verdict::kGiven));
    return *verdict == Verdict::kRunning || *verdict == Verdict::kUnknown ||
           (*verdict == Verdict::kUndecided && in_the_way());
  });
  return verdict;
}

/// What this node has of the box in question, as `find` (box::find_move, box::find_move_on_disk) reads its
/// journal. Without the box's lock it is right for what cannot change any more: the journal is read first, so
/// that a box that leaves meanwhile is not taken for one without a move.
Holding look(const base::Context& context, const Matter& matter,
             std::optional<box::Move> (*find)(const box::Paths&)) {
  Holding found;
  const auto move = find(box::paths_of(context, matter.name));
  if (const auto config = box::find_config(context, matter.name); config && config->uuid == matter.uuid) {
    found.here = config->epoch;
    found.came_by_it = config->last_move == matter.id;
    if (move) {
      found.step = move->step;
      found.same_move = move->id == matter.id;
    }
  }
  if (const auto arriving = find(box::arriving_paths_of(context, matter.name));
      arriving && arriving->id == matter.id)
    found.arriving = arriving->step;
  if (const auto last = box::last_parting(context, matter.uuid)) {
    found.left = last->epoch;
    found.left_by_it = last->move == matter.id;
  }
  return found;
}

/// The source's word on a move.
Verdict judge(const base::Context& context, const Matter& matter) {
  Verdict verdict = whose(look(context, matter, box::find_move), matter.epoch, /*locked=*/false);
  // The other node acts on this word at once and for good. The record may be there and not be on disk: its
  // writer is about to fsync it, or that has failed. After a power cut it would be gone, and the box this
  // node's as well. So it is brought to disk first; where that fails there is no answer.
  if (verdict == Verdict::kGiven)
    verdict = whose(look(context, matter, box::find_move_on_disk), matter.epoch, /*locked=*/false);
  if (verdict != Verdict::kUndecided) return verdict;
  auto lock = box::try_lock_box(context, matter.name);
  if (!lock) return verdict;
  const Holding now = look(context, matter, box::find_move_on_disk);
  verdict = whose(now, matter.epoch, /*locked=*/true);
  if (verdict == Verdict::kKept && now.step && now.same_move)
    keep_box(context, box::load_config(context, matter.name));
  return verdict;
}

std::string came(const std::string& name, const box::Move& move) {
  return "box " + name +
         (move.with_file() ? " runs here: it was restored from " : " runs here since its move from ") +
         move.peer;
}

/// A checkpoint that was cut off before its file had the box: it goes on here.
Settled settle_saving(const base::Context& context, const box::Config& config, const box::Move& move) {
  try {
    drop_unfinished_file(move.peer, move.id);
  } catch (const base::Error& e) {
    base::warn("{}", e.message());  // the box must not wait for a disk that is away
  }
  keep_box(context, config);
  return {config.name,
          "box " + config.name + " stays here: its checkpoint to " + move.peer + " was not finished"};
}

Settled settle_leaving(const base::Context& context, const box::Config& config, const box::Move& move) {
  keep_box(context, config);
  // The other node finds out by itself as well; this is only to free it sooner.
  try {
    if (exchange(move.rsh, move.peer, Frame::kSettle, decision_about(move, config, Verdict::kKept)) ==
        Verdict::kRunning)
      return {config.name,
              "box " + config.name + " is here, and " + move.peer +
                  " has taken it without this node's word: destroy one of the two",
              true};
  } catch (const base::Error& e) {
    base::debug("{}", e.render());
  }
  return {config.name, "box " + config.name + " stays here: its move to " + move.peer + " was not finished"};
}

/// A given box comes back only by a person's word, and then as the newest there is.
Settled take_back(const base::Context& context, box::Config config, const box::Move& move) {
  const box::Paths paths = box::paths_of(context, config.name);
  box::tear_down(context, paths, config.name);  // the frozen copy, where it was kept for its memory
  config.epoch = move.epoch + 2;
  box::save_config(paths, config);
  box::end_kept_move(paths);
  return {config.name, "box " + config.name + " is this node's again, as it was when it left, and stopped"};
}

Settled settle_given(const base::Context& context, const box::Config& config, const box::Move& move,
                     Ruling ruling) {
  // It will never run here again, so its frozen copy need not wait for the other node; but where
  // it holds memory that the other node still fetches, it must.
  if (!move.lazy) box::tear_down(context, box::paths_of(context, config.name), config.name);
  const std::string& name = config.name;
  if (move.with_file()) {
    forget_box(context, config, move.epoch + 1);
    return {name, "box " + name + " is in " + move.peer + ", and no longer here"};
  }
  const auto verdict = tell(move, config, move.lazy ? 10s : 30s, [&] { return move.lazy; });
  if (verdict == Verdict::kRunning) {
    forget_box(context, config, move.epoch + 1);
    return {name, "box " + name + " runs on " + move.peer + " since its move"};
  }
  if (ruling == Ruling::kTake && verdict != Verdict::kUndecided) return take_back(context, config, move);
  if (ruling == Ruling::kDrop && verdict != Verdict::kUndecided) {
    forget_box(context, config, move.epoch + 1);
    return {name, "box " + name + " was given to " + move.peer + ": what was left of it here was removed"};
  }
  if (verdict == Verdict::kUnknown)
    return {name,
            "box " + name + " was given to " + move.peer +
                ", which knows nothing of it: look for it there and on other nodes, then run recover with "
                "--take " +
                name + " or --drop " + name,
            true};
  if (verdict == Verdict::kUndecided && move.lazy)
    return {name,
            "box " + name + " was given to " + move.peer +
                ", which still fetches its memory from here: leave this node up, and run recover again later",
            true};
  return {name,
          "box " + name + " was given to " + move.peer +
              ", which does not answer: bring it back, then run recover again",
          true};
}

/// Takes the box over, and says how far that is.
Settled take_here(const base::Context& context, const std::string& name, const box::Move& move) {
  if (take_over(context, name) == Taken::kMemoryFollows)
    return {name,
            "box " + name + " runs here, and its memory is on the way from " + move.peer + ": leave both up",
            true};
  return {name, came(name, move)};
}

Settled settle_arrival(const base::Context& context, const std::string& name,
                       const std::vector<std::string>& rsh, Ruling ruling) {
  const box::Paths paths = box::arriving_paths_of(context, name);
  auto move = box::find_move_on_disk(paths);
  const Resume resume = resume_of_arriving(move ? std::optional(move->step) : std::nullopt);
  if (resume == Resume::kDrop) {
    const bool restored = move && move->with_file();
    drop_arrival(context, name);
    return {name, "box " + name + (restored ? " was not restored" : " did not arrive here") +
                      ": what had come of it was removed"};
  }
  const box::Config config = box::Config::parse(base::read_file(paths.config));
  const std::string peer = move->peer;
  if (resume == Resume::kGoOn) return take_here(context, name, *move);
  move->rsh = rsh;
  const auto verdict = ask(*move, config, 30s);
  const Fate fate = verdict ? fate_after(*verdict) : Fate::kStays;
  if (fate == Fate::kDropped) {
    drop_arrival(context, name);
    return {name, "box " + name + " stays on " + peer + ": what had come of it here was removed"};
  }
  if (fate == Fate::kTakenOver) return take_here(context, name, *move);
  // While the source's command lives it will decide, whatever anybody says here.
  if (ruling == Ruling::kTake && verdict != Verdict::kUndecided) {
    take_over(context, name);
    return {name, "box " + name + " runs here: it was taken without the word of " + peer};
  }
  if (ruling == Ruling::kDrop && verdict != Verdict::kUndecided) {
    drop_arrival(context, name);
    return {name, "box " + name + " was dropped without the word of " + peer};
  }
  if (verdict == Verdict::kUnknown)
    return {
        name,
        "box " + name + " is here frozen, and " + peer +
            " knows nothing of it (another disk than when it left?): look for it on other nodes, then run "
            "recover with --take " +
            name + " or --drop " + name,
        true};
  return {name,
          "box " + name + " is here frozen, and " + peer +
              " does not say whose it is: run recover again when " + peer + " answers",
          true};
}

}  // namespace

std::chrono::milliseconds ask_patience() { return 60s; }

bool ask_source(const base::Context& context, const box::Paths&, const box::Move& move,
                const box::Config& config, std::chrono::milliseconds patience) {
  const auto verdict = ask(move, config, patience);
  const Fate fate = verdict ? fate_after(*verdict) : Fate::kStays;
  if (fate == Fate::kDropped) drop_arrival(context, config.name);
  return fate == Fate::kTakenOver;
}

bool tell_destination(const base::Context& context, const box::Move& move, const std::string& name,
                      std::chrono::milliseconds patience, const std::function<bool()>& in_the_way) {
  return tell(move, box::load_config(context, name), patience, in_the_way) == Verdict::kRunning;
}

void answer_question(const base::Context& context, Wire& wire, const Json& question) {
  wire.send_json(Frame::kAnswer, {{"verdict", to_string(judge(context, Matter::parse(question)))}});
}

void answer_decision(const base::Context& context, Wire& wire, const Json& decision) {
  const Matter matter = Matter::parse(decision);
  auto answer = [&](Verdict verdict) { wire.send_json(Frame::kAnswer, {{"verdict", to_string(verdict)}}); };
  auto lock = box::try_lock_box(context, matter.name);
  if (!lock) return answer(Verdict::kUndecided);

  const Decided what = decided(look(context, matter, box::find_move), verdict_in(decision), matter.epoch);
  if (what.fate == Fate::kTakenOver) return answer(answer_after(take_over(context, matter.name)));
  if (what.fate == Fate::kDropped) drop_arrival(context, matter.name);
  answer(what.answer);
}

std::vector<Settled> recover(const base::Context& context, const std::vector<std::string>& rsh,
                             const std::optional<std::string>& only, Ruling ruling) {
  box::sweep(context);
  std::vector<Settled> out;
  auto settle = [&](const std::string& name, auto work) {
    if (only && *only != name) return;
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
    settle(name, [&]() -> std::optional<Settled> { return settle_arrival(context, name, rsh, ruling); });
  for (const auto& name : box::box_names(context))
    settle(name, [&]() -> std::optional<Settled> {
      const auto config = box::find_config(context, name);
      const auto move = box::find_move_on_disk(box::paths_of(context, name));
      if (!config || !move) return std::nullopt;
      switch (resume_of_box(move->step)) {
        case Resume::kKeep:
          return settle_leaving(context, *config, *move);
        case Resume::kTell:
          return settle_given(context, *config, *move, ruling);
        case Resume::kUnsave:
          return settle_saving(context, *config, *move);
        default:
          return take_here(context, name, *move);
      }
    });
  if (only && out.empty())
    throw base::error("no move of a box {} is unfinished on this node", *only)
        .hint("`drover-node box list` shows the boxes that are here, and what they do");
  return out;
}

}  // namespace migrate
