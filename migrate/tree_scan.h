#pragma once
#include <sys/stat.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/context.h"
#include "base/fd.h"
#include "migrate/tree_snapshot.h"
#include "migrate/tree_walk.h"

namespace migrate {

/// Everything at `root` as it is now. What vanishes while it is read is marked absent; where
/// `final` it is an Error. Names that stay, in a tree that something writes to, may be of different moments.
/// Nothing is marked dirty.
TreeSnapshot scan_tree(int root, bool final, const std::function<void()>& check);

/// A scan in the making: nodes are added to `snapshot_` as they are met, and their children behind them.
/// Nodes move while it grows: only indices are kept. `check` must outlive it.
class TreeScan {
 public:
  TreeScan(int root, bool final, const std::function<void()>& check);  ///< begins with the root's node
  TreeScan(const TreeScan&) = delete;
  TreeScan& operator=(const TreeScan&) = delete;

  /// Reads the directory where `chain_` is, and all that is below it.
  void directory(uint32_t at);

 protected:
  friend TreeSnapshot scan_tree(int root, bool final, const std::function<void()>& check);

  bool list(uint32_t at);
  int open_directory();  ///< where chain_ is; -1 with errno set: it is gone
  bool look(int directory,
            uint32_t at);      ///< fills a node that has its name; false with errno set: it is gone
  void vanished(uint32_t at);  ///< after a failed call; an Error where that must not be
  static void take(TreeSnapshot::Node& node, const struct stat& status);

  base::Fd root_;
  bool final_;
  const std::function<void()>& check_;
  DirChain chain_;
  dev_t device_ = 0;
  TreeSnapshot snapshot_;
  std::vector<TreeSnapshot::Node>& nodes_ = snapshot_.nodes_;
  std::string& names_ = snapshot_.names_;
};

/// When the calls of one scan began, to tell which files may still change unseen. Taken before
/// the syncfs(2) that write-protects shared mappings.
class ScanStart {
 public:
  /// `clock` has to live as long as this.
  explicit ScanStart(base::Clock& clock);
  /// Marks files whose ctime is not older than the start; all of them when the clock was set
  /// meanwhile. Returns how many there are.
  uint64_t mark_dirty(TreeSnapshot& snapshot) const;

 private:
  base::Clock& clock_;
  uint64_t start_ns_, offset_ns_;
};

}  // namespace migrate
