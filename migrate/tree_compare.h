#pragma once
#include <sys/types.h>

#include <cstdint>
#include <map>
#include <set>
#include <unordered_map>
#include <utility>
#include <vector>

#include "migrate/tree_snapshot.h"

namespace migrate {

/// How a tree differs from what the other side has. Looks at snapshots only.
struct TreeDifference {
  enum class Change : uint8_t {
    kNone,
    kTimes,  ///< the access time alone
    kSend,   ///< new, or anything else
  };

  /// Several names of one file in the tree that must be sent again.
  struct Group {
    uint32_t names = 0;
    uint32_t link_id = 0;  ///< for the sender: 0 until the content was sent
    bool steady = true;    ///< all names were seen with the same ctime
  };

  // For each node of the new snapshot:
  std::vector<Change> change;
  std::vector<uint32_t> before;  ///< the node of the same name in the old snapshot, or kNone

  std::map<uint32_t, std::vector<uint32_t>> removed;  ///< by directory: nodes of the old snapshot
  std::unordered_map<uint32_t, uint32_t> group_of;    ///< node → index in groups
  std::vector<Group> groups;
  uint64_t bytes = 0;  ///< sizes of the files to send
};

/// When one name of a file is to be sent, all are: its content once, then links. So a link never
/// refers to an earlier round.
TreeDifference compare_trees(const TreeSnapshot& before, const TreeSnapshot& now,
                             const std::set<ino_t>& always);

}  // namespace migrate
