#pragma once
#include <sys/types.h>

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "box/cgroup.h"

namespace box {

/// The groups that a box has made below its own, and which of its processes lies where: what CRIU does not
/// carry (docs/formats/box-images.md). Recorded while the box is frozen, made again before CRIU restores
/// it, since CRIU looks for what the box watches or has open there; the processes go to their places when
/// CRIU has made them and before any of them runs.
class CgroupTree {
 public:
  struct Owner {
    uint32_t uid = 0, gid = 0;  ///< as the box counts
    bool operator==(const Owner&) const = default;
  };
  struct Group {
    std::string path;                           ///< from the box's group; empty for that one
    uint32_t mode = 0;                          ///< of the directory
    Owner owner;                                ///< likewise
    std::map<std::string, Owner> files;         ///< those that are not the box's root's
    std::map<std::string, std::string> values;  ///< of the controllers' files and subtree_control
    std::map<std::string, std::string> xattrs;  ///< in the namespace user.
    std::vector<pid_t> pids;                    ///< as the box counts
    bool operator==(const Group&) const = default;
  };

  /// Throws for what cannot be made again: threaded groups, and groups that the box has frozen itself.
  static CgroupTree record(const Cgroup& top, uint32_t id_base);
  /// Whether a move could carry them; throws as `record` does.
  static void check(const Cgroup& top);
  /// Nothing in the text is trusted. Throws an Error.
  static CgroupTree parse(std::string_view json);
  [[nodiscard]] std::string render() const;

  /// Gives the box its group, and makes the groups below it. `top` exists.
  void make(const Cgroup& top, uint32_t id_base) const;
  /// Puts the box's processes, all of which are in `top`, where they were, and sets the limits.
  void place(const Cgroup& top) const;

  [[nodiscard]] const std::vector<Group>& groups() const { return groups_; }

 private:
  std::vector<Group> groups_;  ///< parents before children
};

}  // namespace box
