#pragma once
#include <sys/types.h>

#include <chrono>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/fd.h"

namespace base {

/// A command for Runner: argv[0] is looked up in PATH, never through a shell.
struct Command {
  std::vector<std::string> argv;
  std::map<std::string, std::string> env = {};  ///< added to ours
  std::string cwd = {};
  std::string input = {};  ///< given on stdin; otherwise stdin is /dev/null
  std::chrono::milliseconds timeout = std::chrono::minutes(2);
  std::optional<int> stdout_fd = {};  ///< goes there instead of into Result::out
};

struct Result {
  int status = 0;  ///< exit status, or 128 + signal as shells say it
  std::string out, err;
};

/// The outside world of child processes; tests put a fake in its place.
class Runner {
 public:
  virtual ~Runner() = default;
  /// Waits for the end. A status other than 0, a signal, a passed deadline or a failed
  /// exec is an Error that carries argv, status and the end of stderr.
  virtual Result run(const Command& command) = 0;
  /// The same, but any exit status is returned, not thrown.
  virtual Result run_any(const Command& command) = 0;
};

/// Starts real processes. Logs each command first when `verbose`; children get SIGKILL when
/// the thread that started them dies; at the deadline, or when we are asked to stop
/// (base/context.h), they and what they started get TERM, 2 s later KILL. More than 64 MiB on
/// stdout is an Error; of stderr the last 64 KiB are kept. Children have no terminal: one that
/// would ask a question fails instead.
class ProcessRunner : public Runner {
 public:
  explicit ProcessRunner(bool verbose = false) : verbose_(verbose) {}
  Result run(const Command& command) override;
  Result run_any(const Command& command) override;

 private:
  bool verbose_;
};

/// A process that runs beside us. Its destructor ends it and what it started: TERM, 2 s, KILL.
class [[nodiscard]] Child {
 public:
  /// Starts argv with the given descriptors as stdin, stdout, stderr (-1: /dev/null; stderr -1: ours).
  static Child start(const std::vector<std::string>& argv, int in, int out, int err,
                     const std::map<std::string, std::string>& env = {});
  Child(Child&& other) noexcept;
  Child& operator=(Child&& other) noexcept;
  ~Child();

  [[nodiscard]] pid_t pid() const { return pid_; }          ///< -1 once it was waited for
  [[nodiscard]] int pidfd() const { return pidfd_.get(); }  ///< readable when it has ended
  /// Its status (as Result::status), or nullopt when `timeout` passed first.
  std::optional<int> wait(std::chrono::milliseconds timeout);
  void terminate() noexcept;  ///< TERM, 2 s, KILL, reap
  pid_t release();            ///< it is no longer ours, but still dies with our thread

 private:
  friend class ProcessRunner;
  Child(pid_t pid, Fd pidfd) : pid_(pid), pidfd_(std::move(pidfd)) {}
  pid_t pid_ = -1;
  Fd pidfd_;
  int status_ = 0;
};

/// argv as a person would type it, for messages.
std::string quoted(const std::vector<std::string>& argv);

}  // namespace base
