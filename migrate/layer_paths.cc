#include "migrate/layer_paths.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <filesystem>

#include "base/fd.h"
#include "base/mount.h"

namespace migrate {

const std::vector<LayerPaths::MountPoint>* LayerPaths::mounts_of(pid_t pid) {
  const std::string proc = "/proc/" + std::to_string(pid);
  struct stat space{};
  if (::stat((proc + "/ns/mnt").c_str(), &space) != 0) return nullptr;  // it has ended
  if (const auto known = mounts_.find(space.st_ino); known != mounts_.end()) return &known->second;
  // A process that has changed its root sees only mounts below that, with other paths.
  std::error_code failed;
  if (std::filesystem::read_symlink(proc + "/root", failed) != "/") return nullptr;
  const auto table = base::mounts_of(pid);
  if (!table) return nullptr;
  std::vector<MountPoint> mounts;
  std::string root_device;
  for (const auto& mount : *table) {
    if (mount.point == "/") root_device = mount.device;
    mounts.push_back({mount.point == "/" ? "" : mount.point, mount.root == "/" ? "" : mount.root,
                      mount.device == root_device});
  }
  return &mounts_.emplace(space.st_ino, std::move(mounts)).first->second;
}

bool LayerPaths::find(pid_t pid, const std::string& path, FileSet& files) {
  const auto* mounts = mounts_of(pid);
  if (!mounts) return false;
  const MountPoint* at = nullptr;
  for (const auto& mount : *mounts)  // of those in one place the last one is on top
    if ((path == mount.path || path.starts_with(mount.path + "/")) &&
        (!at || mount.path.size() >= at->path.size()))
      at = &mount;
  if (!at) return false;
  if (!at->of_layer) return true;
  const std::string in_layer = at->root + path.substr(at->path.size());
  const auto fd = base::open_beneath(upper_, in_layer.substr(1), O_PATH | O_NOFOLLOW);
  struct stat status{};
  if (!fd || ::fstat(fd->get(), &status) != 0) return false;
  files.emplace(status.st_dev, status.st_ino);
  return true;
}

}  // namespace migrate
