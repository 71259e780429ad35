#pragma once
#include <sched.h>
#include <sys/mount.h>
#include <unistd.h>

#include <format>

#include "base/error.h"
#include "base/fd.h"

namespace base {

/// Moves this process into a mount namespace of its own, so that a test's mounts never show
/// outside; as an ordinary user by way of a user namespace.
inline void enter_mount_namespace() {
  uid_t uid = ::getuid();
  gid_t gid = ::getgid();
  if (::unshare(CLONE_NEWNS | (uid == 0 ? 0 : CLONE_NEWUSER)) != 0) throw sys_error("cannot unshare");
  if (uid != 0) {
    write_file("/proc/self/setgroups", "deny");
    write_file("/proc/self/uid_map", std::format("0 {} 1", uid));
    write_file("/proc/self/gid_map", std::format("0 {} 1", gid));
  }
  if (::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0)
    throw sys_error("cannot make / private");
}

}  // namespace base
