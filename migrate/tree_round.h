#pragma once
#include "migrate/tree.h"
#include "migrate/tree_content.h"

namespace migrate {

/// Writes one round of a tree, from its beginning to its end: what `now` has that `before` has not, and the
/// other way round. `now` is what was scanned of the tree at `root`; what has vanished since is marked absent
/// in it, or is an error when the round is final. `contents` are the blocks that the other side has, and
/// afterwards those that it will have.
TreeStats send_round(int root, Sink& sink, const TreeSnapshot& before, TreeSnapshot& now,
                     SentContents& contents, const SendOptions& options);

}  // namespace migrate
