#pragma once
#include <cstdint>
#include <functional>
#include <unordered_map>
#include <vector>

#include "migrate/change_watch.h"
#include "migrate/tree_snapshot.h"

namespace migrate {

/// The part of a tree that may have changed and the directories on the way to it, as it was and as it is. To
/// compare and send it is to compare and send the whole: what is in neither is the same in both.
struct TreePart {
  TreeSnapshot before, now;
  std::vector<uint32_t>
      in_last;  ///< for each node of `now` the one of this name in the whole snapshot, or kNone
  /// Directory of the whole snapshot → those of its children that are in `before`, in order.
  std::unordered_map<uint32_t, std::vector<uint32_t>> seen;
};

/// Looks again at what `changes` names, at what `last` has as dirty or absent, and at whole directories that
/// are new. Every name of a file with several comes along when one does. Otherwise like scan_tree().
TreePart look_again(int root, const TreeSnapshot& last, Changes changes, bool final,
                    const std::function<void()>& check);

/// Makes `last` what a scan of the whole would have been.
void put_back(TreeSnapshot& last, const TreePart& part);

}  // namespace migrate
