#pragma once
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/context.h"
#include "base/mount.h"

namespace rootfs {

/// Runs `body` as root, in a thread with a mount namespace of its own: what it mounts is seen by nobody else
/// and goes with it however this process ends. Its umask is reset, its host's name "template". An ordinary
/// user's process becomes root of a user namespace (base/user_namespace.h) and stays it: there may be no
/// other thread. What `body` makes is the same, byte for byte, as long as it makes no device nodes.
void in_private_mounts(base::Context& context, const std::function<void()>& body);

/// Mounts that go in the reverse of the order in which they were made.
class Mounts {
 public:
  Mounts() = default;
  Mounts(const Mounts&) = delete;
  Mounts& operator=(const Mounts&) = delete;
  ~Mounts() {
    while (!mounts_.empty()) pop();
  }
  void push(base::Mount mount) { mounts_.push_back(std::move(mount)); }
  void pop() { mounts_.pop_back(); }

 private:
  std::vector<base::Mount> mounts_;
};

/// Where a build works: a tmpfs, which goes with the namespace (so it needs in_private_mounts),
/// or, where memory is short or `on_disk` asks for it, a directory in `scratch`, which gc empties.
class [[nodiscard]] Workspace {
 public:
  Workspace(const base::Context& context, const std::string& scratch, bool on_disk);

  [[nodiscard]] const std::string& path() const { return path_; }
  /// A new empty directory in it.
  [[nodiscard]] std::string directory(const std::string& name) const;

 private:
  std::optional<base::Mount> memory_;
  std::optional<base::TempDir> disk_;
  std::string path_;
};

/// Mounts a layer's image read-only: from the file where the kernel can (6.12), else over a loop
/// device that goes with the mount.
base::Mount mount_layer(const std::string& image, const std::string& target);

/// An overlay of `lower` directories (bottom first) with `upper` on top; without one, read-only.
base::Mount mount_overlay(const std::vector<std::string>& lower, const std::string& upper,
                          const std::string& work, const std::string& target);

}  // namespace rootfs
