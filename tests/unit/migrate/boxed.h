#pragma once
#include <fcntl.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstddef>
#include <functional>
#include <string>
#include <thread>

#include "base/error.h"
#include "base/fd.h"

namespace migrate {

/// A process that stands for one of a box. It does what `body` says, and ends with what that returns. The two
/// sides meet in `step()`: the process waits there for `next()`, which returns when it has come to the
/// following one.
class Boxed {
 public:
  explicit Boxed(const std::function<int(Boxed&)>& body) {
    pid_ = ::fork();
    if (pid_ == 0) {
      go_.write.close();
      came_.read.close();
      ::_exit(body(*this));
    }
    go_.read.close();
    came_.write.close();
    if (pid_ < 0) throw base::sys_error("cannot start a process");
    pidfd_ = base::Fd(static_cast<int>(::syscall(SYS_pidfd_open, pid_, 0)));
    if (!pidfd_) throw base::sys_error("cannot open process {}", pid_);
  }
  Boxed(const Boxed&) = delete;
  Boxed& operator=(const Boxed&) = delete;
  ~Boxed() {
    if (waited_) return;
    signal(SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }

  // In the process.
  void step() {
    char byte = 'x';
    if (::write(came_.write.get(), &byte, 1) != 1 || ::read(go_.read.get(), &byte, 1) != 1) ::_exit(99);
  }
  /// Comes back as from step(), with the descriptors closed: before exec.
  void tell() {
    const char byte = 'x';
    if (::write(came_.write.get(), &byte, 1) != 1) ::_exit(99);
  }

  // In the test.
  [[nodiscard]] pid_t pid() const { return pid_; }
  /// To it and to no other process, also when it has ended. Tests run as root, and kill(2) with a pid that is
  /// wrong may reach anybody.
  void signal(int number) const { ::syscall(SYS_pidfd_send_signal, pidfd_.get(), number, nullptr, 0); }
  /// False: it has ended.
  bool wait_step() {
    char byte;
    return ::read(came_.read.get(), &byte, 1) == 1;
  }
  void go() { base::write_full(go_.write.get(), "x", "pipe"); }
  bool next() {
    go();
    return wait_step();
  }
  /// Its exit status, or minus the signal that ended it.
  int wait() {
    int status = 0;
    ::waitpid(pid_, &status, 0);
    waited_ = true;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }
  /// Waits until it is in that state (proc_pid_stat(5)).
  [[nodiscard]] bool comes_to(char state) const {
    for (int i = 0; i < 2000; ++i) {
      const std::string stat = base::read_file("/proc/" + std::to_string(pid_) + "/stat");
      if (stat[stat.rfind(") ") + 2] == state) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    return false;
  }

 private:
  base::Pipe go_ = base::make_pipe(), came_ = base::make_pipe();
  pid_t pid_ = -1;
  base::Fd pidfd_;
  bool waited_ = false;
};

}  // namespace migrate
