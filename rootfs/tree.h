#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "base/context.h"
#include "base/fd.h"
#include "base/mount.h"
#include "rootfs/parts.h"

namespace rootfs {

/// A root directory that becomes a template or a host image. Whatever is placed in it by name stays in it:
/// its symlinks are followed as if it were "/" (openat2 with RESOLVE_IN_ROOT).
class Tree {
 public:
  explicit Tree(std::string path);

  [[nodiscard]] const std::string& path() const { return path_; }

  /// Puts a file of a definition there, in the place of what was there; its directories are made.
  void place(const File& file) const;

  /// Something is there, at the end of all symlinks.
  [[nodiscard]] bool has(const std::string& path) const;

  /// Runs argv with the tree mounted for it (proc, sys, a small dev) and nothing else of this
  /// machine: no network, own processes, own environment. `inside`: with the tree as its root.
  /// Everything it started ends with it, and with us. Any exit status is returned.
  base::Result run(base::Context& context, std::vector<std::string> argv, int64_t clock, bool inside) const;

  /// argv in namespaces of its own and with a clean environment, for those that mount by themselves.
  static std::vector<std::string> isolated(std::vector<std::string> argv, int64_t clock,
                                           const std::vector<std::string>& unshare_options = {});

 private:
  [[nodiscard]] base::Fd open_directory(const std::string& path) const;
  [[nodiscard]] unsigned id_of(const File& file, const std::string& name, const char* database) const;

  std::string path_;
  base::Fd fd_;
};

}  // namespace rootfs
