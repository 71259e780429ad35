#include "migrate/rules.h"

#include <algorithm>
#include <array>

namespace migrate {
namespace {

using box::MoveStep;

constexpr std::array<std::string_view, 5> kVerdicts = {"given", "kept", "undecided", "running", "unknown"};

/// The source's word on a move of a box that it has no more. It is final where what the node remembers leaves
/// no doubt; otherwise (another disk than then, or one put back from a copy) nobody but a person can know.
Verdict whose_by_memory(const Holding& source, uint64_t epoch) {
  if (!source.left || *source.left < epoch) return Verdict::kUnknown;
  // It was here with a later epoch: so there is a newer box, or there was.
  if (*source.left > epoch) return Verdict::kKept;
  // With the same epoch: each owner gives it away once, and that was not in this move.
  return source.left_by_it ? Verdict::kUnknown : Verdict::kKept;
}

}  // namespace

std::string_view to_string(Verdict verdict) { return kVerdicts.at(static_cast<size_t>(verdict)); }

Verdict verdict_of(std::string_view text) {
  const auto* found = std::ranges::find(kVerdicts, text);
  return found == kVerdicts.end() ? Verdict::kUndecided : static_cast<Verdict>(found - kVerdicts.begin());
}

Verdict whose(const Holding& source, uint64_t epoch, bool locked) {
  if (!source.here) return whose_by_memory(source, epoch);
  // An old copy, put back: it may have been given since.
  if (*source.here < epoch) return Verdict::kUnknown;
  // Settled already, or there is a later move: the one in question had ended with the box here.
  if (!source.step || !source.same_move) return Verdict::kKept;
  switch (*source.step) {
    case MoveStep::kGiven:
      return Verdict::kGiven;
    case MoveStep::kLeaving:
      // Its command lives, and decides; or it is dead, and so nobody has given the box away.
      return locked ? Verdict::kKept : Verdict::kUndecided;
    default:  // this node is the destination, or there is none
      return Verdict::kUnknown;
  }
}

Decided decided(const Holding& destination, Verdict source_says, uint64_t epoch) {
  if (destination.arriving) {
    const bool mine = resume_of_arriving(destination.arriving) == Resume::kGoOn;
    if (source_says == Verdict::kKept && !mine) return {Fate::kDropped, Verdict::kKept};
    if (source_says == Verdict::kGiven && *destination.arriving != MoveStep::kArriving)
      return {Fate::kTakenOver, Verdict::kRunning};
  }
  // Taken over before: perhaps cut off half-way.
  if (destination.here && destination.step && destination.same_move)
    return {Fate::kTakenOver, Verdict::kRunning};
  if (destination.here && destination.came_by_it) return {Fate::kStays, Verdict::kRunning};
  // It has been here with the epoch that this move gave it, and has left again.
  if (destination.left && *destination.left > epoch) return {Fate::kStays, Verdict::kRunning};
  return {Fate::kStays, Verdict::kUnknown};
}

Fate fate_after(Verdict answer) {
  switch (answer) {
    case Verdict::kGiven:
      return Fate::kTakenOver;
    case Verdict::kKept:
      return Fate::kDropped;
    default:
      return Fate::kStays;
  }
}

Taken goes_on(MoveStep step, bool lazy, bool processes, bool brought) {
  if (!processes) return Taken::kFromDisk;
  if (!lazy || step == MoveStep::kWhole) return Taken::kWhole;
  return brought ? Taken::kMemoryFollows : Taken::kFromDisk;
}

Verdict answer_after(Taken taken) {
  return taken == Taken::kMemoryFollows ? Verdict::kUndecided : Verdict::kRunning;
}

Resume resume_of_arriving(std::optional<MoveStep> step) {
  if (!step || *step == MoveStep::kArriving) return Resume::kDrop;
  return *step == MoveStep::kPrepared ? Resume::kAsk : Resume::kGoOn;
}

Resume resume_of_box(std::optional<MoveStep> step) {
  if (!step) return Resume::kNothing;
  switch (*step) {
    case MoveStep::kLeaving:
      return Resume::kKeep;
    case MoveStep::kGiven:
      return Resume::kTell;
    case MoveStep::kSaving:
      return Resume::kUnsave;
    default:
      return Resume::kGoOn;
  }
}

bool outdated(std::optional<uint64_t> given, uint64_t epoch) { return given && *given > epoch + 1; }

}  // namespace migrate
