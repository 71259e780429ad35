#include "box/abandoned.h"

#include <dirent.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdlib>
#include <memory>

#include "base/fd.h"
#include "base/log.h"
#include "box/firewall.h"
#include "box/netns.h"
#include "box/runtime.h"

namespace box {
namespace {

int option(int fd, int level, int name) {
  int value = 0;
  socklen_t size = sizeof value;
  return ::getsockopt(fd, level, name, &value, &size) == 0 ? value : 0;
}

/// tcp(7) does not have it: Linux, include/uapi/linux/tcp.h.
void end_tcp_repair(pid_t pid) {
  const base::Fd process(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  const std::string dir = "/proc/" + std::to_string(pid) + "/fd";
  const std::unique_ptr<DIR, int (*)(DIR*)> files(::opendir(dir.c_str()), ::closedir);
  if (!process || !files) return;  // it has ended
  while (const dirent* e = ::readdir(files.get())) {
    if (e->d_name[0] == '.') continue;
    const base::Fd fd(static_cast<int>(::syscall(SYS_pidfd_getfd, process.get(), std::atoi(e->d_name), 0)));
    if (!fd || option(fd.get(), SOL_SOCKET, SO_PROTOCOL) != IPPROTO_TCP) continue;
    if (option(fd.get(), IPPROTO_TCP, TCP_REPAIR) == 0) continue;
    constexpr int kOff = 0;
    if (::setsockopt(fd.get(), IPPROTO_TCP, TCP_REPAIR, &kOff, sizeof kOff) != 0)
      base::warn("a connection of process {} stays in repair mode, as CRIU has left it", pid);
  }
}

}  // namespace

void undo_criu(const Cgroup& group, pid_t init) {
  in_netns(netns_of(init).get(), remove_criu_lock);
  for (const pid_t pid : group.pids()) end_tcp_repair(pid);
}

}  // namespace box
