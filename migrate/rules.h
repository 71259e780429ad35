#pragma once
#include <cstdint>
#include <optional>
#include <string_view>

#include "box/ownership.h"

namespace migrate {

/// Who does what with a move that was cut off. Decisions alone, with no file and no process in them:
/// settle.cc, arrival.cc and the search through all that can happen
/// (tests/unit/migrate/handover_model_test.cc) decide by the same lines. The source's journal is the only
/// judge; docs/formats/move-journal.md has the table.

/// What one end says of a move.
enum class Verdict {
  kGiven,      ///< it is the destination's
  kKept,       ///< it stays at the source
  kUndecided,  ///< ask again
  kRunning,    ///< it has become the destination's, there, with all its memory
  kUnknown,    ///< nothing is known of it
};
std::string_view to_string(Verdict verdict);
/// Of what another node said; kUndecided for what is no verdict.
Verdict verdict_of(std::string_view text);

/// What a node has of a box when it is asked about one move of it. A box is meant by its uuid: another one of
/// the same name counts as nothing.
struct Holding {
  std::optional<uint64_t> here;           ///< in boxes/: its epoch
  std::optional<box::MoveStep> step;      ///< of the move in its journal there
  bool same_move = false;                 ///< and that move is the one in question
  bool came_by_it = false;                ///< the last move that brought it here is the one in question
  std::optional<box::MoveStep> arriving;  ///< of the move in question, in arriving/
  std::optional<uint64_t> left;           ///< the box has left this node: its epoch until then
  bool left_by_it = false;                ///< and it was given away in the move in question
};

/// The source's answer to "whose is the box?" of a move that began at `epoch`. `locked`: nobody else is at
/// work on the box here. kKept for a move that is still `leaving` is to be made true (keep_box) before it is
/// said, and kGiven has to be on disk.
Verdict whose(const Holding& source, uint64_t epoch, bool locked);

/// What the destination, which nobody else is at work on, does with its frozen copy.
enum class Fate { kStays, kDropped, kTakenOver };
struct Decided {
  Fate fate;
  Verdict answer;  ///< true once the fate is done; of what is taken over, `answer_after` says it
};
/// When the source tells what was decided.
Decided decided(const Holding& destination, Verdict source_says, uint64_t epoch);
/// When the source has answered the destination's question.
Fate fate_after(Verdict answer);

/// How a box goes on that has become this node's.
enum class Taken {
  kWhole,          ///< the move is ended here
  kMemoryFollows,  ///< the box runs, and the bringer of its memory will end the move (post-copy)
  kFromDisk,       ///< it is started from its disk, as after a power cut, and the move is ended
};
/// `lazy`: its memory comes after it. `processes`: its own are there, frozen or running. `brought`: somebody
/// is there who brings the rest of its memory.
Taken goes_on(box::MoveStep step, bool lazy, bool processes, bool brought);
/// What the source, which forgets the box at kRunning, may be told then.
Verdict answer_after(Taken taken);

/// What a node that has only its own journal does next.
enum class Resume {
  kNothing,  ///< there is no move
  kDrop,     ///< destination: it did not come whole, so the source was never told that it did
  kAsk,      ///< destination: the source decides
  kGoOn,     ///< destination: the box is this node's
  kKeep,     ///< source: the box is still this node's
  kTell,     ///< source: the box is the destination's, which may not know
  kUnsave,   ///< a checkpoint's file is not whole: the box is still this node's
};
Resume resume_of_arriving(std::optional<box::MoveStep> step);
Resume resume_of_box(std::optional<box::MoveStep> step);

/// A box is offered with `epoch`, and this node has given it away for `given`: a newer one is somewhere.
bool outdated(std::optional<uint64_t> given, uint64_t epoch);

}  // namespace migrate
