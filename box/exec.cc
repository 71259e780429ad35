#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/close_range.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <cstring>

#include "base/error.h"
#include "box/box.h"
#include "box/cgroup.h"
#include "box/container.h"

namespace box {
namespace {

// Beside the groups of the box's init. Its name is none that systemd gives to a group.
constexpr const char* kExecGroup = "/.drover";

/// As crun does for process 1 (container.cc): what goes on in the box when the command has ended is to be
/// moved too. seccomp(2); the call has this number for all of the processor's kinds of programs, and a bit
/// more for x32.
bool forbid_io_uring() {
  std::array<sock_filter, 5> steps = {{
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_STMT(BPF_ALU | BPF_AND | BPF_K, ~uint32_t{__X32_SYSCALL_BIT}),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  }};
  const sock_fprog program = {steps.size(), steps.data()};
  return ::syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) == 0;
}

/// In the box, as its root: the same bounding set as process 1, then the command. Does not return.
[[noreturn]] void become(const Config& config, const std::vector<std::string>& argv) {
  const auto& keep = capability_numbers();
  for (int cap = 0; ::prctl(PR_CAPBSET_READ, cap) >= 0; ++cap)
    if (std::ranges::find(keep, cap) == keep.end()) ::prctl(PR_CAPBSET_DROP, cap);
  if (!forbid_io_uring() || ::setgroups(0, nullptr) != 0 || ::setresgid(0, 0, 0) != 0 ||
      ::setresuid(0, 0, 0) != 0 || ::chdir("/") != 0) {
    std::perror("error: cannot become the box's root");
    ::_exit(125);
  }
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);  // a change of ids takes it away (prctl(2))
  std::vector<std::string> env = {"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                                  "HOME=/root", "container=drover"};
  if (const char* term = ::getenv("TERM")) env.push_back(std::string("TERM=") + term);
  for (const auto& [key, value] : config.start.env) env.push_back(key + "=" + value);
  auto pointers = [](const std::vector<std::string>& from) {
    std::vector<char*> out;
    for (const auto& s : from) out.push_back(const_cast<char*>(s.c_str()));
    out.push_back(nullptr);
    return out;
  };
  auto args = pointers(argv), environment = pointers(env);
  ::signal(SIGINT, SIG_DFL);
  ::signal(SIGTERM, SIG_DFL);
  ::signal(SIGPIPE, SIG_DFL);
  ::clearenv();
  for (char* e : environment)
    if (e) ::putenv(e);
  ::execvp(args[0], args.data());
  std::fprintf(stderr, "error: cannot run %s in box %s: %s\n", args[0], config.name.c_str(),
               std::strerror(errno));
  ::_exit(errno == ENOENT ? 127 : 126);
}

/// From here on nothing that is ours can be reached by way of this process. The kernel counts it as the box's
/// as soon as it has entered, before the command has taken its place: the box's root could trace it (as
/// in CVE-2016-9962), and find what our caller left open.
bool keep_nothing() {
  return ::prctl(PR_SET_DUMPABLE, 0) == 0 && ::close_range(3, ~0u, CLOSE_RANGE_CLOEXEC) == 0;
}

/// Puts this process into the box's group. Where the box divides it, no process may lie in the undivided
/// part: then it is one group below, which the last command takes away.
void enter(const Cgroup& group, const Config& config) {
  for (int more = 10; config.start.control_groups && more > 0; --more) {
    try {
      group.create();
      group.delegate(config.id_base);
      group.join(::getpid());
      return;
    } catch (const base::Error&) {
      if (more == 1) throw;  // otherwise another command has just ended
    }
  }
  group.join(::getpid());
}

/// Waits for the command, or ends it when we are asked to stop.
int wait_for(pid_t child) {
  base::Fd ended(static_cast<int>(::syscall(SYS_pidfd_open, child, 0)));
  pollfd fds[] = {{ended.get(), POLLIN, 0}, {base::interrupt_fd(), POLLIN, 0}};
  while (::poll(fds, 2, -1) < 0 && errno == EINTR) {
  }
  const bool asked_to_stop = (fds[0].revents & POLLIN) == 0;
  if (asked_to_stop) ::kill(child, SIGKILL);
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (asked_to_stop) base::check_interrupt();
  return status;
}

int exit_status(int status) { return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status); }

}  // namespace

int exec(const base::Context& context, const std::string& name, const std::vector<std::string>& argv) {
  const Config config = load_config(context, name);
  const Paths paths = paths_of(context, name);
  const pid_t init = require_running(context, name).init;
  const Cgroup group(config.start.control_groups ? paths.cgroup + kExecGroup : paths.cgroup);
  base::Fd pidfd(static_cast<int>(::syscall(SYS_pidfd_open, init, 0)));
  if (!pidfd) throw base::sys_error("cannot reach the init of box {}", name);

  std::fflush(nullptr);
  pid_t child = ::fork();
  if (child < 0) throw base::sys_error("cannot start a process");
  if (child == 0) {
    // Into the group first, so that a freeze or kill of the box takes us along.
    try {
      enter(group, config);
    } catch (const std::exception& e) {
      std::fprintf(stderr, "error: %s\n", e.what());
      ::_exit(125);
    }
    // CRIU gives what it restores a time namespace, for its clocks to go on.
    const int all = CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWNET |
                    CLONE_NEWCGROUP | (base::exists("/proc/self/ns/time") ? CLONE_NEWTIME : 0);
    if (!keep_nothing() || ::setns(pidfd.get(), all) != 0) {
      std::perror("error: cannot enter the box");
      ::_exit(125);
    }
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);  // and the command goes with us
    // The pid namespace counts for children only.
    pid_t inner = ::fork();
    if (inner == 0) become(config, argv);
    if (inner < 0) ::_exit(125);
    ::signal(SIGINT, SIG_IGN);
    int status = 0;
    while (::waitpid(inner, &status, 0) < 0 && errno == EINTR) {
    }
    ::_exit(exit_status(status));
  }
  // An interrupt from the terminal is for the command; we pass on how it ended.
  auto old = ::signal(SIGINT, SIG_IGN);
  const int status = wait_for(child);
  ::signal(SIGINT, old);
  // Not while another command is in it.
  if (config.start.control_groups) ::rmdir(group.dir().c_str());
  return exit_status(status);
}

}  // namespace box
