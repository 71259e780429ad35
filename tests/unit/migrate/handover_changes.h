#pragma once
#include <optional>

#include "tests/unit/migrate/handover_model.h"

namespace model {

using box::MoveStep;
using migrate::Holding;

// How a step is written down in a State, and what the steps have in common.

constexpr uint8_t code(MoveStep step) { return static_cast<uint8_t>(static_cast<int>(step) + 1); }
inline std::optional<MoveStep> step_of(uint8_t code) {
  return code ? std::optional(static_cast<MoveStep>(code - 1)) : std::nullopt;
}
inline constexpr uint8_t kLeaving = code(MoveStep::kLeaving), kGiven = code(MoveStep::kGiven),
                         kArriving = code(MoveStep::kArriving), kPrepared = code(MoveStep::kPrepared),
                         kMineStep = code(MoveStep::kMine), kWholeStep = code(MoveStep::kWhole);

inline void sync(State& s, Node& node) {
  node.disk = node.seen;
  if (node.disk.step != kGiven || (s.given & 1 << node.disk.move)) return;
  s.given = static_cast<uint8_t>(s.given | 1 << node.disk.move);
  s.owner = s.to[node.disk.move];
}
inline void done(Node& node) {
  node.pc = kIdle;
  node.move = 0;
  node.tail = kNoTail;
  node.taken = 0;
}
inline void end_process(Node& node) {
  node.process = kNone;
  node.lacks = 0;
}
/// The source's frozen copy goes.
inline void end_copy(State& s, Node& node, uint8_t move) {
  const Node& there = s.nodes[s.to[move]];
  if (node.process != kNone && there.lacks && there.brings != kNoBringer)
    s.wrong = static_cast<uint8_t>(s.wrong | kMemoryForgotten);
  end_process(node);
}
inline void begin(Node& node, Pc pc, uint8_t move, Tail tail) {
  node.pc = pc;
  node.move = move;
  node.tail = tail;
}
inline void send(State& s, uint8_t move, Message message) {
  s.sent[move] = static_cast<uint16_t>(s.sent[move] | message);
}
inline void remove_box(Disk& d) { d.here = d.epoch = d.last_move = d.step = d.move = d.kept = 0; }

inline Holding look(const Disk& d, uint8_t move) {
  Holding found;
  if (d.here) {
    found.here = d.epoch;
    found.step = step_of(d.step);
  }
  found.same_move = found.step && d.move == move;
  found.came_by_it = d.here && d.last_move == move + 1;
  if (d.arriving && d.a_move == move) found.arriving = step_of(d.a_step);
  if (d.given) {
    found.left = d.given - 1;
    found.left_by_it = d.given_move == move + 1;
  }
  if (d.destroyed && (!found.left || d.destroyed > *found.left)) {
    found.left = d.destroyed;
    found.left_by_it = false;
  }
  return found;
}

}  // namespace model
