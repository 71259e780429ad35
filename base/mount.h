#pragma once
#include <cstdint>
#include <string>
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

/// Whether something is mounted exactly there (from /proc/self/mountinfo).
bool is_mount_point(const std::string& path);
/// umount2(2) with MNT_DETACH; a path where nothing is mounted is fine.
void unmount_if_mounted(const std::string& path);
/// Every mount point at or below `path`, deepest first.
std::vector<std::string> mounts_below(const std::string& path);

/// A loop device over a file, with direct I/O, detached by the destructor unless released.
class [[nodiscard]] LoopDevice {
 public:
  static LoopDevice attach(const std::string& file, bool read_only);
  LoopDevice(LoopDevice&& other) noexcept;
  LoopDevice& operator=(LoopDevice&& other) noexcept;
  ~LoopDevice();

  [[nodiscard]] const std::string& path() const { return path_; }
  void detach();
  void release() { path_.clear(); }

 private:
  explicit LoopDevice(std::string path) : path_(std::move(path)) {}
  std::string path_;
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
