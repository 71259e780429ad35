#pragma once
#include <sys/types.h>

#include <map>
#include <string>
#include <vector>

#include "migrate/tree.h"

namespace migrate {

/// What files of the private layer the paths are that the kernel shows of a box's processes (/proc/PID/fd,
/// /proc/PID/maps). There a path begins at the root of the process's mount namespace, and may lead through
/// bind mounts: of a box's own, or of systemd's for a service.
class LayerPaths {
 public:
  /// `upper` is the private layer's directory.
  explicit LayerPaths(int upper) : upper_(upper) {}

  /// Adds the file to `files` where it is one of the layer. False: it may be one, and nobody can tell which.
  bool find(pid_t pid, const std::string& path, FileSet& files);

 private:
  struct MountPoint {
    std::string path, root;  ///< where it is, and what of its file system is there
    bool of_layer;           ///< its file system is that of the box's root
  };
  const std::vector<MountPoint>* mounts_of(pid_t pid);

  int upper_;
  std::map<ino_t, std::vector<MountPoint>> mounts_;  ///< of each mount namespace
};

}  // namespace migrate
