#pragma once
#include <cstdint>
#include <functional>

#include "migrate/tree_snapshot.h"

namespace migrate {

/// Everything at `root` as it is now. What vanishes while it is read is marked absent; where
/// `final` it is an Error. Names that stay, in a tree that something writes to, may be of different moments.
/// Nothing is marked dirty.
TreeSnapshot scan_tree(int root, bool final, const std::function<void()>& check);

/// When the calls of one scan began, to tell which files may still change unseen. Taken before
/// the syncfs(2) that write-protects shared mappings.
class ScanStart {
 public:
  ScanStart();
  /// Marks files whose ctime is not older than the start; all of them when the clock was set
  /// meanwhile. Returns how many there are.
  uint64_t mark_dirty(TreeSnapshot& snapshot) const;

 private:
  uint64_t start_ns_, offset_ns_;
};

}  // namespace migrate
