#pragma once
#include <cstdint>
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
  kGiven,     ///< source: the other node owns the box with epoch + 1; never resumed here again
  kArriving,  ///< destination: a box is on its way here
  kPrepared,  ///< destination: all of it is here, frozen; the source decides
  kMine,      ///< destination: this node owns it
};
std::string_view to_string(MoveStep step);

/// The journal of one move on one side.
struct Move {
  MoveStep step;
  std::string id;                ///< 32 hex digits
  std::string peer;              ///< the other node: where this one reaches it
  std::vector<std::string> rsh;  ///< by what
  uint64_t epoch = 0;            ///< of the box while it is not given

  /// Appends `next` to the journal; on disk when it returns.
  void advance(const Paths& paths, MoveStep next);
};

/// Begins a journal. Throws when there is one.
Move begin_move(const Paths& paths, MoveStep first, std::string id, std::string peer,
                std::vector<std::string> rsh, uint64_t epoch);
std::optional<Move> find_move(const Paths& paths);
void end_move(const Paths& paths);  ///< removes the journal; on disk when it returns

/// Throws when a move of this box is not finished: then nobody but `recover` may touch it.
void require_no_move(const Paths& paths, std::string_view name);

/// The highest epoch of a box that this node has given away: an older copy is refused here.
void remember_given(const base::Context& context, const Config& config, uint64_t epoch);
std::optional<uint64_t> given_epoch(const base::Context& context, const Config& config);

}  // namespace box
