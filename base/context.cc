#include "base/context.h"

#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>

#include "base/error.h"

namespace base {
namespace {

/// An eventfd that is readable from the signal until check_interrupt() has thrown.
/// Open as long as the process lives: the handler may run at any time.
std::atomic<int> asked_to_stop = -1;
std::atomic<int> masks = 0;

void on_signal(int) {
  int saved = errno;
  uint64_t one = 1;
  [[maybe_unused]] ssize_t written = ::write(asked_to_stop, &one, sizeof one);
  errno = saved;
}

}  // namespace

void install_interrupt_handler() {
  if (asked_to_stop >= 0) return;
  asked_to_stop = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (asked_to_stop < 0) throw sys_error("cannot make an eventfd");
  for (int signal : {SIGINT, SIGTERM, SIGHUP}) {
    struct sigaction action = {};
    ::sigaction(signal, nullptr, &action);
    if (action.sa_handler == SIG_IGN) continue;  // nohup, or a shell's background job: so they want it
    action = {};
    action.sa_handler = on_signal;  // without SA_RESTART: a wait ends early
    ::sigaction(signal, &action, nullptr);
  }
}

int interrupt_fd() { return masks == 0 ? asked_to_stop.load() : -1; }

void check_interrupt() {
  uint64_t signals = 0;
  int fd = interrupt_fd();
  if (fd >= 0 && ::read(fd, &signals, sizeof signals) == sizeof signals)
    throw error("interrupted").exit(Exit::kInterrupted);
}

NoInterrupt::NoInterrupt() { ++masks; }
NoInterrupt::~NoInterrupt() { --masks; }

}  // namespace base
