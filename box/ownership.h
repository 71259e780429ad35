#pragma once
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/context.h"
#include "base/journal.h"
#include "box/node.h"

namespace box {

/// What a node has written down about a move, in the order in which it can be written
/// (docs/formats/move-journal.md). kGiven is the commit point.
enum class MoveStep {
  kLeaving,   ///< source: a move was begun
  kGiven,     ///< source: the other end owns the box with epoch + 1; never resumed here again
  kArriving,  ///< destination: a box is on its way here
  kPrepared,  ///< destination: all of it is here, frozen; the source decides
  kMine,      ///< destination: this node owns it
  kWhole,     ///< destination: so does it all its memory (post-copy)
  kSaving,    ///< a checkpoint is being written to a file; the box stays, or kGiven follows
};
std::string_view to_string(MoveStep step);

/// The journal of one move on one side.
struct Move {
  MoveStep step;
  std::string id;                ///< 32 hex digits
  std::string peer;              ///< the other node: where this one reaches it; or a file's absolute path
  std::vector<std::string> rsh;  ///< by what
  uint64_t epoch = 0;            ///< of the box while it is not given
  bool lazy = false;             ///< post-copy: the memory follows

  /// The other end is a checkpoint's file, not a node.
  [[nodiscard]] bool with_file() const { return peer.starts_with('/'); }
  /// Appends `next` to the journal; on disk when it returns.
  void advance(const Paths& paths, MoveStep next);
  /// The same at the commit point. `committed` runs once the record is on disk, or may be: then nothing is
  /// taken back any more. Throws without it when the record is certainly not there; after it, with the exit
  /// code for `recover`, when nobody can be sure.
  void commit(const Paths& paths, MoveStep next, const std::function<void()>& committed);
};

/// Begins a journal. Throws when there is one.
Move begin_move(const Paths& paths, MoveStep first, std::string id, std::string peer,
                std::vector<std::string> rsh, uint64_t epoch, bool lazy = false);
/// What the journal says now, for whom it is enough to look: its last step may not be on disk yet.
std::optional<Move> find_move(const Paths& paths);
/// The same for whom acts on it, or tells the other node: it is on disk when this returns. Throws when
/// another process is writing.
std::optional<Move> find_move_on_disk(const Paths& paths);
void end_move(const Paths& paths);  ///< removes the journal; on disk when it returns
/// The same on the source that keeps the box: the journal becomes kept.journal, for `remember_destroyed`.
void end_kept_move(const Paths& paths);

/// Throws when a move of this box is not finished: then nobody but `recover` may touch it.
void require_no_move(const Paths& paths, std::string_view name);

/// The highest epoch of a box that this node has given away: an older copy is refused here.
void remember_given(const base::Context& context, const Config& config, uint64_t epoch,
                    std::string_view move);
std::optional<uint64_t> given_epoch(const base::Context& context, const Config& config);

/// Before a box is destroyed: another node may still ask whose it is, where it has ever been in a move.
void remember_destroyed(const base::Context& context, const Paths& paths, const Config& config);

/// How a box left this node.
struct Parting {
  uint64_t epoch;    ///< of the box while it was here
  std::string move;  ///< in which it was given away; empty: it was destroyed
};
/// The last time that it did, as far as this node remembers.
std::optional<Parting> last_parting(const base::Context& context, const std::string& uuid);

}  // namespace box
