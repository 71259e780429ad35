#include "tests/unit/migrate/handover_model.h"

#include <algorithm>

#include "tests/unit/migrate/handover_changes.h"

namespace model {
namespace {

using migrate::Fate;
using migrate::Resume;
using migrate::Taken;
using migrate::Verdict;

/// All that can happen next.
class Generator {
 public:
  Generator(const Protocol& protocol, const Limits& limits, const State& state, std::vector<Step>& out)
      : protocol_(protocol), limits_(limits), state_(state), out_(out) {}

  void run() {
    for (uint8_t n = 0; n < limits_.nodes; ++n) {
      command(n);
      serve(n);
      memory(n);
      faults(n);
      recover(n);
      operate(n);
    }
  }

 private:
  // A change of a copy of the state, put among the steps if anything is different then.
  template <class Change>
  void step(Kind kind, uint8_t n, const char* what, Change change) {
    State next = state_;
    change(next, next.nodes[n]);
    if (next != state_) out_.push_back({next, kind, n, what});
  }

  void take_over(State& s, Node& node, uint8_t move, Tail tail) const {
    if (protocol_.look_syncs) sync(s, node);
    begin(node, node.seen.arriving && node.seen.a_step == kPrepared ? kMine : kRun, move, tail);
  }
  void follow(State& s, Node& node, uint8_t move, Fate fate, Tail tail) const {
    if (fate == Fate::kTakenOver) take_over(s, node, move, tail);
    if (fate == Fate::kDropped) begin(node, kDropKill, move, kNoTail);
    if (fate == Fate::kStays) done(node);
  }

  void command(uint8_t n) {
    const Node& now = state_.nodes[n];
    const uint8_t m = now.move;
    const uint16_t sent = state_.sent[m];
    auto to = [](Pc pc) { return [pc](State&, Node& node) { node.pc = pc; }; };
    auto go = [&](const char* what, auto change) { step(Kind::kProgress, n, what, change); };
    auto gives_up = [&](const char* what, auto change) { step(Kind::kGivesUp, n, what, change); };
    auto fails = [&](Pc pc) { gives_up("gives up", to(pc)); };
    auto on = [&](Message message, const char* what, Pc pc) {
      if (sent & message) go(what, to(pc));
    };
    switch (now.pc) {
      case kIdle:
        return;

      case kBegin:
        gives_up("gives up", [](State&, Node& node) { done(node); });
        return go("writes leaving", [m](State&, Node& node) {
          node.seen.step = kLeaving;
          node.seen.move = m;
          node.pc = kBeginSync;
        });
      case kBeginSync:
        return go("has leaving on disk", [](State& s, Node& node) {
          sync(s, node);
          node.pc = kFreeze;
        });
      case kFreeze:
        fails(kKeepThaw);
        return go("freezes the box", [](State&, Node& node) {
          if (node.process == kRuns) node.process = kFrozen;
          node.pc = kSendImages;
        });
      case kSendImages:
        fails(kKeepThaw);
        return go("has sent the images", [m](State& s, Node& node) {
          send(s, m, kImagesSent);
          node.pc = kAwaitPrepared;
        });
      case kAwaitPrepared:
        fails(kKeepThaw);
        return on(kPreparedSent, "hears prepared", kGive);
      case kGive:
        fails(kKeepThaw);
        return go("writes given", [](State&, Node& node) {
          node.seen.step = kGiven;
          node.pc = kGiveSync;
        });
      case kGiveSync:
        step(Kind::kFault, n, "cannot sync given", [this](State&, Node& node) {
          if (protocol_.doubt_is_given)
            done(node);
          else
            node.pc = kKeepThaw;
        });
        return go(protocol_.given_syncs ? "has given on disk" : "does not sync given",
                  [this](State& s, Node& node) {
                    if (protocol_.given_syncs) sync(s, node);
                    node.pc = kCommit;
                  });
      case kCommit:
        fails(kTell);
        return go("says commit", [this, m](State& s, Node& node) {
          send(s, m, kCommitSent);
          node.pc = protocol_.forget_waits ? kAwaitRunning : kForgetKill;
        });
      case kAwaitRunning:
        fails(kTell);
        return on(kRunningSent, "hears running",
                  limits_.lazy && protocol_.memory_waits ? kAwaitMemory : kForgetKill);
      case kAwaitMemory:
        gives_up("gives up", [](State&, Node& node) { done(node); });
        return on(kWholeSent, "hears that all memory is there", kForgetKill);
      case kTell:
        return go("tells that it was given", [m](State& s, Node& node) {
          send(s, m, kToldGiven);
          node.pc = kAwaitConfirmed;
        });
      case kAwaitConfirmed:
        gives_up("gives up", [](State&, Node& node) { done(node); });
        return on(kConfirmed, "hears that it is confirmed", kForgetKill);
      case kForgetKill:
        return go("kills its frozen copy", [m](State& s, Node& node) {
          end_copy(s, node, m);
          node.pc = kForgetNote;
        });
      case kForgetNote:
        return go("notes the new epoch", [m](State& s, Node& node) {
          for (Disk* d : {&node.seen, &node.disk}) {
            d->given = static_cast<uint8_t>(s.epoch[m] + 1);
            d->given_move = static_cast<uint8_t>(m + 1);
          }
          node.pc = kForgetAway;
        });
      case kForgetAway:
        return go("removes the box", [](State&, Node& node) {
          remove_box(node.seen);
          node.pc = kForgetSync;
        });
      case kForgetSync:
        return go("has the removal on disk", [](State& s, Node& node) {
          sync(s, node);
          done(node);
        });

      case kKeepThaw:
        return go("lets the box go on", [](State&, Node& node) {
          if (node.process == kFrozen) node.process = kRuns;
          node.pc = kKeepEnd;
        });
      case kKeepEnd:
        return go("puts the journal aside", [](State&, Node& node) {
          node.seen.step = node.seen.move = 0;
          node.seen.kept = 1;
          node.pc = kKeepSync;
        });
      case kKeepSync:
        return go("has kept the box", [m](State& s, Node& node) {
          sync(s, node);
          if (node.tail == kAnswerKept) send(s, m, kAnsweredKept);
          if (node.tail == kTellKept) send(s, m, kToldKept);
          done(node);
        });

      case kArrive:
        return go("writes arriving", [m](State& s, Node& node) {
          node.seen.arriving = 1;
          node.seen.a_epoch = static_cast<uint8_t>(s.epoch[m] + 1);
          node.seen.a_last_move = static_cast<uint8_t>(m + 1);
          node.seen.a_step = kArriving;
          node.seen.a_move = m;
          node.pc = kArriveSync;
        });
      case kArriveSync:
        fails(kDropKill);
        return go("has arriving on disk", [this](State& s, Node& node) {
          sync(s, node);
          if (limits_.lazy) node.brings = kFetches, node.guard = protocol_.guarded;
          node.pc = kAwaitImages;
        });
      case kAwaitImages:
        fails(kDropKill);
        if ((sent & kImagesSent) && (!limits_.lazy || now.brings == kFetches))
          go("restores the box", [this](State&, Node& node) {
            node.process = kSealed;
            node.lacks = limits_.lazy;
            node.pc = protocol_.freezes_first ? kFreezeHere : kPrepare;
          });
        return;
      case kFreezeHere:
        fails(kDropKill);
        return go("has the box in the freezer", [this](State&, Node& node) {
          if (node.process == kSealed) node.process = kFrozen;
          node.pc = protocol_.freezes_first ? kPrepare : kAwaitCommit;
        });
      case kPrepare:
        fails(kDropKill);
        return go("writes prepared", [](State&, Node& node) {
          node.seen.a_step = kPrepared;
          node.pc = kPrepareSync;
        });
      case kPrepareSync:
        fails(kDropKill);
        return go(protocol_.prepared_syncs ? "has prepared on disk" : "does not sync prepared",
                  [this](State& s, Node& node) {
                    if (protocol_.prepared_syncs) sync(s, node);
                    node.pc = kSayPrepared;
                  });
      case kSayPrepared:
        fails(kAsk);
        return go("says prepared", [this, m](State& s, Node& node) {
          send(s, m, kPreparedSent);
          node.pc = protocol_.freezes_first ? kAwaitCommit : kFreezeHere;
        });
      case kAwaitCommit:
        if (protocol_.lost == Fate::kStays)
          fails(kAsk);
        else
          gives_up("decides alone",
                   [this, m](State& s, Node& node) { follow(s, node, m, protocol_.lost, kReceiver); });
        return on(kCommitSent, "hears commit", kMine);
      case kAsk:
        return go("asks whose the box is", [m](State& s, Node& node) {
          send(s, m, kAsked);
          node.pc = kAwaitAnswer;
        });
      case kAwaitAnswer:
        gives_up("gives up: the box stays frozen", [](State&, Node& node) { done(node); });
        for (auto [message, verdict] :
             {std::pair(kAnsweredGiven, Verdict::kGiven), {kAnsweredKept, Verdict::kKept}})
          if (sent & message)
            go(verdict == Verdict::kGiven ? "hears that it was given" : "hears that it was kept",
               [this, m, verdict](State& s, Node& node) {
                 follow(s, node, m, protocol_.fate_after(verdict), node.tail);
               });
        return;
      case kDropKill:
        return go("kills what has arrived", [](State&, Node& node) {
          end_process(node);
          node.pc = kDropAway;
        });
      case kDropAway:
        return go("removes what has arrived", [](State&, Node& node) {
          node.seen.arriving = node.seen.a_epoch = node.seen.a_last_move = node.seen.a_step =
              node.seen.a_move = 0;
          node.pc = kDropSync;
        });
      case kDropSync:
        return go("has that removal on disk", [](State& s, Node& node) {
          sync(s, node);
          done(node);
        });

      case kMine:
        return go("writes mine", [this](State&, Node& node) {
          node.seen.a_step = kMineStep;
          node.pc = protocol_.mine_syncs ? kMineSync : kRun;
        });
      case kMineSync:
        return go("has mine on disk", [](State& s, Node& node) {
          sync(s, node);
          node.pc = kRun;
        });
      case kRun:
        return go("lets the box run", [this](State& s, Node& node) {
          const MoveStep at = *step_of(node.seen.arriving ? node.seen.a_step : node.seen.step);
          const Taken taken =
              protocol_.goes_on(at, limits_.lazy, node.process != kNone, node.brings != kNoBringer);
          node.taken = static_cast<uint8_t>(static_cast<int>(taken) + 1);
          node.pc = kSayRunning;
          if (taken == Taken::kFromDisk) {
            end_process(node);
            node.guard = 0;  // what it would kill is gone
            return;
          }
          if (node.lacks && node.brings == kNoBringer)
            s.wrong = static_cast<uint8_t>(s.wrong | kRunsWithoutBringer);
          if (node.process == kFrozen || node.process == kSealed) node.process = kRuns;
        });
      case kSayRunning:
        return go("says running", [m](State& s, Node& node) {
          if (node.tail == kReceiver && node.process == kRuns) send(s, m, kRunningSent);
          node.pc = kName;
        });
      case kName:
        return go("takes it among its boxes", [](State&, Node& node) {
          Disk& d = node.seen;
          if (d.arriving) {
            d.here = 1;
            d.kept = 0;
            d.epoch = d.a_epoch;
            d.last_move = d.a_last_move;
            d.step = d.a_step;
            d.move = d.a_move;
            d.arriving = d.a_epoch = d.a_last_move = d.a_step = d.a_move = 0;
          }
          node.pc = kNameSync;
        });
      case kNameSync:
        return go("has that on disk", [this, m](State& s, Node& node) {
          sync(s, node);
          node.pc = kEnd;
          if (taken_by(node) == Taken::kMemoryFollows) finish(s, node, m);
        });
      case kEnd:
        return go("removes the journal", [](State&, Node& node) {
          node.seen.step = node.seen.move = 0;
          node.pc = kEndSync;
        });
      case kEndSync:
        return go("has the end on disk", [m](State& s, Node& node) {
          sync(s, node);
          node.pc = kStart;
          if (node.tail != kBringer) return;
          send(s, m, kWholeSent);
          node.brings = kNoBringer;
          done(node);
        });
      case kStart:
        return go("has taken the box over", [this, m](State& s, Node& node) {
          if (taken_by(node) == Taken::kFromDisk) node.process = kRuns;
          finish(s, node, m);
        });

      case kWhole:
        return go("writes whole", [](State&, Node& node) {
          node.seen.step = kWholeStep;
          node.pc = kWholeSync;
        });
      case kWholeSync:
        return go("has whole on disk", [](State& s, Node& node) {
          sync(s, node);
          node.pc = kRelease;
        });
      case kRelease:
        return go("releases the guard", [](State&, Node& node) {
          node.guard = 0;
          node.pc = kEnd;
        });
    }
  }

  static Taken taken_by(const Node& node) { return static_cast<Taken>(node.taken - 1); }
  /// take_over returns.
  void finish(State& s, Node& node, uint8_t move) const {
    if (node.tail == kConfirm && protocol_.answer_after(taken_by(node)) == Verdict::kRunning)
      send(s, move, kConfirmed);
    done(node);
  }

  /// `drover-node receive` for a question or a decision that has been sent at any time before.
  void serve(uint8_t n) {
    for (uint8_t m = 0; m < state_.moves; ++m) {
      const uint16_t sent = state_.sent[m];
      const uint64_t epoch = state_.epoch[m];
      if (state_.from[m] == n && (sent & kAsked) && !(sent & (kAnsweredGiven | kAnsweredKept)))
        step(Kind::kProgress, n, "is asked", [&](State& s, Node& node) {
          Verdict verdict = protocol_.whose(look(node.seen, m), epoch, false);
          if (verdict == Verdict::kGiven && protocol_.look_syncs) sync(s, node);
          if (verdict == Verdict::kUndecided && node.pc == kIdle) {
            if (protocol_.look_syncs) sync(s, node);
            const Holding now = look(node.seen, m);
            verdict = protocol_.whose(now, epoch, true);
            if (verdict == Verdict::kKept && now.step && now.same_move)
              return begin(node, kKeepThaw, m, kAnswerKept);
          }
          if (verdict == Verdict::kGiven) send(s, m, kAnsweredGiven);
          if (verdict == Verdict::kKept) send(s, m, kAnsweredKept);
        });
      if (state_.to[m] != n || state_.nodes[n].pc != kIdle) continue;
      for (auto [message, verdict] : {std::pair(kToldGiven, Verdict::kGiven), {kToldKept, Verdict::kKept}}) {
        if (!(sent & message) || (sent & kConfirmed)) continue;
        // While memory follows the answer is that it is undecided, however often it is told.
        const Disk& has = state_.nodes[n].seen;
        const bool waits = has.here && has.step == kMineStep && state_.nodes[n].brings != kNoBringer;
        step(waits ? Kind::kFault : Kind::kProgress, n,
             verdict == Verdict::kGiven ? "is told given" : "is told kept", [&](State& s, Node& node) {
               const auto what = protocol_.decided(look(node.seen, m), verdict, epoch);
               if (what.fate != Fate::kStays)
                 follow(s, node, m, what.fate, kConfirm);
               else if (what.answer == Verdict::kRunning)
                 send(s, m, kConfirmed);
             });
      }
    }
  }

  /// Post-copy: the bringer and the guard on the destination, `drover-node receive` for kFetch on the source.
  void memory(uint8_t n) {
    const Node& now = state_.nodes[n];
    if (now.brings == kNoBringer) {
      if (now.guard)
        step(Kind::kProgress, n, "has the box killed by its guard", [](State&, Node& node) {
          end_process(node);
          node.guard = 0;
        });
    } else {
      auto ends = [](State&, Node& node) { node.brings = kNoBringer; };
      step(Kind::kGivesUp, n, "gives up to bring memory", ends);
      step(Kind::kFault, n, "has the bringer of memory killed", ends);
      const bool on_the_way = now.seen.arriving || (now.seen.here && now.seen.step);
      const uint8_t m = now.seen.arriving ? now.seen.a_move : now.seen.move;
      if (!on_the_way)
        step(Kind::kProgress, n, "brings no memory to what was dropped", ends);
      else if (now.brings == kFetches && now.lacks && serves_memory(state_.nodes[state_.from[m]], m))
        step(Kind::kProgress, n, "has got all memory", [](State&, Node& node) {
          node.brings = kHasAll;
          node.lacks = 0;
        });
      else if (now.brings == kHasAll && now.pc == kIdle && now.seen.here && now.seen.step == kMineStep)
        step(Kind::kProgress, n, "ends the move, with all memory",
             [m](State&, Node& node) { begin(node, kWhole, m, kBringer); });
      else if (now.brings == kHasAll && now.pc == kIdle && now.seen.arriving && now.seen.a_step == kMineStep)
        step(Kind::kProgress, n, "takes over what a killed receiver has left",
             [this, m](State& s, Node& node) { take_over(s, node, m, kNoTail); });
    }
    if (!limits_.lazy || now.pc != kIdle || !now.seen.here || now.seen.step != kGiven) return;
    const uint8_t m = now.seen.move;
    if (state_.sent[m] & kWholeSent)
      step(Kind::kFault, n, "is told that all memory is there",
           [m](State&, Node& node) { begin(node, kForgetKill, m, kNoTail); });
  }
  /// A process of the source's command, or of the bringer's second connection.
  static bool serves_memory(const Node& source, uint8_t m) {
    if (source.process != kFrozen) return false;
    if (source.pc == kIdle) return source.seen.here && source.seen.step == kGiven && source.seen.move == m;
    return source.move == m && source.pc >= kSendImages && source.pc <= kAwaitConfirmed;
  }

  void faults(uint8_t n) {
    const Node& now = state_.nodes[n];
    if (now.pc != kIdle)
      step(Kind::kFault, n, "has its command killed", [this](State&, Node& node) {
        if (!protocol_.freezer_holds && node.pc < kArrive && node.process == kFrozen) node.process = kRuns;
        if (node.tail == kBringer) node.brings = kNoBringer;
        done(node);
      });
    if (!limits_.power_cuts) return;
    auto power = [](Node& node) {
      done(node);
      end_process(node);
      node.brings = kNoBringer;
      node.guard = 0;
    };
    step(Kind::kFault, n, "loses power, and what was not synced", [&](State&, Node& node) {
      node.seen = node.disk;
      power(node);
    });
    if (now.seen != now.disk)
      step(Kind::kFault, n, "loses power, and all had come to the disk", [&](State& s, Node& node) {
        sync(s, node);
        power(node);
      });
  }

  void recover(uint8_t n) {
    const Node& now = state_.nodes[n];
    if (now.pc != kIdle) return;
    if (now.seen.arriving)
      step(Kind::kRecover, n, kRecoverArriving, [this](State& s, Node& node) {
        if (protocol_.look_syncs) sync(s, node);
        const Resume what = protocol_.resume_of_arriving(step_of(node.seen.a_step));
        if (what == Resume::kDrop) begin(node, kDropKill, node.seen.a_move, kNoTail);
        if (what == Resume::kAsk) begin(node, kAsk, node.seen.a_move, kNoTail);
        if (what == Resume::kGoOn) take_over(s, node, node.seen.a_move, kNoTail);
      });
    if (now.seen.here && now.seen.step)
      step(Kind::kRecover, n, kRecoverBox, [this](State& s, Node& node) {
        if (protocol_.look_syncs) sync(s, node);
        const Resume what = protocol_.resume_of_box(step_of(node.seen.step));
        if (what == Resume::kKeep) begin(node, kKeepThaw, node.seen.move, kTellKept);
        if (what == Resume::kTell) {
          if (!limits_.lazy || !protocol_.copy_waits) end_copy(s, node, node.seen.move);
          begin(node, kTell, node.seen.move, kNoTail);
        }
        if (what == Resume::kGoOn) take_over(s, node, node.seen.move, kNoTail);
      });
  }

  void operate(uint8_t n) {
    const Node& now = state_.nodes[n];
    if (now.pc != kIdle || !now.seen.here || now.seen.step) return;
    if (now.process == kNone)
      step(Kind::kOperator, n, "starts the box", [](State&, Node& node) { node.process = kRuns; });
    if (now.process == kRuns && state_.moves < limits_.moves)
      for (uint8_t d = 0; d < limits_.nodes; ++d)
        if (d != n && (!limits_.onward || d == state_.moves + 1)) migrate_to(n, d);
    if (!limits_.destroys) return;
    auto note = [](Node& node) {
      if (node.seen.last_move || node.seen.kept) node.seen.destroyed = node.disk.destroyed = node.seen.epoch;
    };
    auto remove = [](State& s, Node& node, uint8_t destroyed) {
      end_process(node);
      remove_box(node.seen);
      sync(s, node);
      s.owner = kNobody;
      s.destroyed = destroyed;
    };
    step(Kind::kOperator, n, "destroys the box", [&](State& s, Node& node) {
      note(node);
      remove(s, node, 1);
    });
    step(Kind::kOperator, n, "destroys the box, with its disk full",
         [&](State& s, Node& node) { remove(s, node, 2); });
    step(Kind::kOperator, n, "is killed while it destroys the box", [&](State&, Node& node) {
      note(node);
      end_process(node);
    });
  }

  void migrate_to(uint8_t source, uint8_t destination) {
    const Node& other = state_.nodes[destination];
    if (other.pc != kIdle || other.seen.here || other.brings != kNoBringer || other.guard) return;
    const uint64_t epoch = state_.nodes[source].seen.epoch;
    if (migrate::outdated(other.seen.given ? std::optional<uint64_t>(other.seen.given) : std::nullopt, epoch))
      return;
    if (other.seen.arriving && protocol_.resume_of_arriving(step_of(other.seen.a_step)) != Resume::kDrop)
      return;
    step(Kind::kOperator, source,
         destination == 0   ? "begins a move to A"
         : destination == 1 ? "begins a move to B"
                            : "begins a move to C",
         [&](State& s, Node& node) {
           const uint8_t m = s.moves++;
           s.from[m] = source;
           s.to[m] = destination;
           s.epoch[m] = static_cast<uint8_t>(epoch);
           begin(node, kBegin, m, kNoTail);
           Node& there = s.nodes[destination];
           end_process(there);
           Disk& d = there.seen;  // an old arrival goes
           d.arriving = d.a_epoch = d.a_last_move = d.a_step = d.a_move = 0;
           sync(s, there);
           begin(there, kArrive, m, kReceiver);
         });
  }

  const Protocol& protocol_;
  const Limits& limits_;
  const State& state_;
  std::vector<Step>& out_;
};

}  // namespace

std::vector<Step> steps(const Protocol& protocol, const Limits& limits, const State& state) {
  std::vector<Step> out;
  Generator(protocol, limits, state, out).run();
  return out;
}

State initial() {
  State state{};
  state.nodes[0].seen.here = 1;
  state.nodes[0].seen.epoch = 1;
  state.nodes[0].disk = state.nodes[0].seen;
  state.nodes[0].process = kRuns;
  return state;
}

}  // namespace model
