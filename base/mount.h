#pragma once
#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/fd.h"

namespace base {

/// A mount that is taken away (lazily) by the destructor unless released.
class [[nodiscard]] Mount {
 public:
  /// mount(8)'s fields; `data` is the file system's own option string.
  static Mount make(const std::string& source, const std::string& target, const std::string& type,
                    unsigned long flags, const std::string& data = {});
  static Mount bind(const std::string& source, const std::string& target);
  /// Takes over a mount that somebody else made.
  static Mount adopt(std::string target) { return Mount(std::move(target)); }
  Mount(Mount&& other) noexcept;
  Mount& operator=(Mount&& other) noexcept;
  ~Mount();

  [[nodiscard]] const std::string& target() const { return target_; }
  void unmount();  ///< throws when it cannot
  void release() { target_.clear(); }

 private:
  explicit Mount(std::string target) : target_(std::move(target)) {}
  std::string target_;
};

/// A line of /proc/PID/mountinfo (proc_pid_mountinfo(5)).
struct MountInfo {
  std::string id;
  std::string device;  ///< "0:52"
  std::string root;    ///< the directory of its file system that is mounted
  std::string point;   ///< where
  std::string type;    ///< of the file system
};
/// What a process sees: of mounts in one place the last one is on top. nullopt when it has ended, whether or
/// not its parent has asked for its status.
std::optional<std::vector<MountInfo>> mounts_of(pid_t pid);

/// Whether something is mounted exactly there (from mountinfo of the calling thread).
bool is_mount_point(const std::string& path);
/// umount2(2) with MNT_DETACH; a path where nothing is mounted is fine.
void unmount_if_mounted(const std::string& path);
/// Every mount point at or below `path`, deepest first.
std::vector<std::string> mounts_below(const std::string& path);

/// A loop device over a file, with direct I/O where the file's file system can. The kernel
/// detaches it (LO_FLAGS_AUTOCLEAR) when its last user is gone: this object, or a mount of it.
class [[nodiscard]] LoopDevice {
 public:
  static LoopDevice attach(const std::string& file, bool read_only);
  LoopDevice(LoopDevice&& other) noexcept;
  LoopDevice& operator=(LoopDevice&& other) noexcept;
  ~LoopDevice();

  [[nodiscard]] const std::string& path() const { return path_; }
  void detach();
  /// From here on whatever has it mounted or open keeps it, and nothing else does.
  void release() {
    path_.clear();
    device_.close();
  }

 private:
  LoopDevice(std::string path, Fd device) : path_(std::move(path)), device_(std::move(device)) {}
  std::string path_;
  Fd device_;
};

/// A directory that goes with its owner, mounts below it included.
class [[nodiscard]] TempDir {
 public:
  /// `parent`/`prefix`XXXXXX, mode 0700.
  static TempDir make(const std::string& parent, const std::string& prefix);
  TempDir(TempDir&& other) noexcept;
  TempDir& operator=(TempDir&& other) noexcept;
  ~TempDir();

  [[nodiscard]] const std::string& path() const { return path_; }
  std::string release() { return std::exchange(path_, {}); }

 private:
  explicit TempDir(std::string path) : path_(std::move(path)) {}
  std::string path_;
};

}  // namespace base
