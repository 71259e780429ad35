#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "migrate/tree_blocks.h"

namespace migrate {

/// What the sender remembers of a tree between two rounds: for each name enough to tell later
/// whether anything about its file has changed. About 64 bytes and the name for each.
class TreeSnapshot {
 public:
  [[nodiscard]] bool empty() const { return nodes_.empty(); }
  [[nodiscard]] size_t size() const { return nodes_.size(); }

  // --- for migrate/tree_*.cc

  static constexpr uint32_t kNone = UINT32_MAX;

  struct Node {
    uint64_t ino = 0;
    uint64_t ctime_ns = 0, mtime_ns = 0, atime_ns = 0;  ///< compared for equality only, but for ctime
    uint64_t size = 0;
    uint32_t mode = 0;              ///< st_mode
    uint32_t name_at = 0;           ///< in names_
    uint32_t first = 0, count = 0;  ///< a directory's children: one run of nodes, sorted by name
    uint8_t name_length = 0;
    bool whiteout = false;  ///< char 0:0
    bool linked = false;    ///< st_nlink > 1 and no directory
    bool dirty = false;     ///< goes into the next round in any case
    bool absent = false;    ///< gone before it could be sent: the other side has nothing of this name
  };

  [[nodiscard]] Node& node(uint32_t i) { return nodes_[i]; }
  [[nodiscard]] const Node& node(uint32_t i) const { return nodes_[i]; }
  [[nodiscard]] std::string_view name(const Node& node) const {
    return std::string_view(names_).substr(node.name_at, node.name_length);
  }

  /// [0] is the root. Rounds of what changed leave some behind that nothing refers to.
  std::vector<Node> nodes_;
  std::string names_;
  uint64_t watched_ = 0;  ///< ChangeWatch::taken() when it was made; 0: nothing was watching
  SentContents contents_;
};

}  // namespace migrate
