#include "migrate/guard.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>
#include <vector>

#include "base/error.h"

namespace migrate {
namespace {

constexpr char kDescriptor = 'd', kReleased = 'r';

/// One byte and perhaps a descriptor; 0 at the end.
char receive(int socket, base::Fd& fd) {
  char byte = 0;
  iovec data{&byte, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))];
  msghdr message{};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  ssize_t got = 0;
  while ((got = ::recvmsg(socket, &message, MSG_CMSG_CLOEXEC)) < 0 && errno == EINTR) {
  }
  if (const cmsghdr* head = CMSG_FIRSTHDR(&message);
      got == 1 && head && head->cmsg_level == SOL_SOCKET && head->cmsg_type == SCM_RIGHTS) {
    int received = -1;
    std::memcpy(&received, CMSG_DATA(head), sizeof received);
    fd = base::Fd(received);
  }
  return got == 1 ? byte : '\0';
}

}  // namespace

void send_descriptor(int socket, int fd) {
  char byte = kDescriptor;
  iovec data{&byte, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  cmsghdr* head = CMSG_FIRSTHDR(&message);
  head->cmsg_level = SOL_SOCKET;
  head->cmsg_type = SCM_RIGHTS;
  head->cmsg_len = CMSG_LEN(sizeof fd);
  std::memcpy(CMSG_DATA(head), &fd, sizeof fd);
  if (::sendmsg(socket, &message, MSG_NOSIGNAL) != 1) throw base::sys_error("cannot hand over a descriptor");
}

base::Fd receive_descriptor(int socket) {
  base::Fd fd;
  receive(socket, fd);
  if (!fd) throw base::error("a descriptor was due, and none came");
  return fd;
}

std::pair<base::Fd, base::Child> start_guard(const std::string& cgroup) {
  int pair[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0)
    throw base::sys_error("cannot make a socket");
  base::Fd ours(pair[0]), its(pair[1]);
  auto child = base::Child::start({"drover-node", "guard", cgroup}, its.get(), -1, -1);
  base::Fd ignored;
  its.close();
  if (receive(ours.get(), ignored) != kReleased)
    throw base::error("the guard of the box's memory did not start");
  return {std::move(ours), std::move(child)};
}

void release_guard(const base::Fd& socket) {
  if (socket) static_cast<void>(::send(socket.get(), &kReleased, 1, MSG_NOSIGNAL));
}

void raise_file_limit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &limit);
}

void guard_memory(int socket, const std::string& cgroup) {
  // It outlives whoever started it: that is what it is for.
  ::prctl(PR_SET_PDEATHSIG, 0);
  for (int signal : {SIGINT, SIGTERM, SIGHUP}) ::signal(signal, SIG_IGN);
  raise_file_limit();
  const base::Fd kill = base::open(cgroup + "/cgroup.kill", O_WRONLY);
  if (::send(socket, &kReleased, 1, MSG_NOSIGNAL) != 1) return;
  std::vector<base::Fd> held;
  for (;;) {
    base::Fd fd;
    const char what = receive(socket, fd);
    if (what == kReleased) return;
    // Also where the kernel had no room for one here: memory that nobody guards is not to be used.
    if (what != kDescriptor || !fd) break;
    held.push_back(std::move(fd));
  }
  base::write_full(kill.get(), "1", cgroup + "/cgroup.kill");
}

}  // namespace migrate
