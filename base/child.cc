#include "base/child.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "base/context.h"
#include "base/error.h"
#include "base/log.h"
#include "base/spawn.h"

namespace base {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr milliseconds kTermToKill = std::chrono::seconds(2);
constexpr milliseconds kKillToGiveUp = std::chrono::seconds(10);
constexpr size_t kMostOutput = 64 << 20;
constexpr size_t kStderrKept = 64 << 10;
constexpr size_t kStderrLinesShown = 5;

/// For poll: what is left until `deadline`, rounded up, never negative.
int left(steady_clock::time_point deadline) {
  auto rest = std::chrono::ceil<milliseconds>(deadline - steady_clock::now()).count();
  return static_cast<int>(std::clamp<int64_t>(rest, 0, 1 << 30));
}

/// The last lines of a program's stderr, without what could steer a terminal.
std::string last_lines(std::string_view text) {
  while (text.ends_with('\n')) text.remove_suffix(1);
  size_t begin = text.size();
  for (size_t lines = 0; lines < kStderrLinesShown && begin != std::string_view::npos; ++lines)
    begin = begin == 0 ? std::string_view::npos : text.rfind('\n', begin - 1);
  if (begin != std::string_view::npos) text.remove_prefix(begin + 1);
  std::string shown = text.empty() ? "" : "\n    ";
  for (char c : text) {
    if (c == '\n')
      shown += "\n    ";
    else
      shown += ::iscntrl(static_cast<unsigned char>(c)) != 0 ? ' ' : c;
  }
  return shown;
}

std::string how_it_ended(int status) {
  if (status <= 128) return std::format("exit {}", status);
  const char* signal = ::sigabbrev_np(status - 128);
  return signal != nullptr ? std::format("killed by SIG{}", signal) : std::format("exit {}", status);
}

/// Collects what a running command writes, and notices its end.
class Collector {
 public:
  Collector(int pidfd, Pipe& out, Pipe& err)
      : polled_{{{.fd = out.read.get(), .events = POLLIN, .revents = 0},
                 {.fd = err.read.get(), .events = POLLIN, .revents = 0},
                 {.fd = pidfd, .events = POLLIN, .revents = 0},
                 {.fd = -1, .events = POLLIN, .revents = 0}}} {
    out.write.close();
    err.write.close();
  }

  enum class Event { kEnded, kDeadline, kInterrupt, kTooMuch };

  Event wait(steady_clock::time_point deadline) {
    while (true) {
      polled_[kInterrupt].fd = interrupt_fd();
      int ready = ::poll(polled_.data(), polled_.size(), left(deadline));
      if (ready < 0 && errno != EINTR) throw sys_error("cannot wait for a command");
      if (ready < 0) continue;
      bool ended = polled_[kProcess].revents != 0;
      // Looked at before the pipes: what it wrote before its end is in them now. What
      // its own children may still write is not waited for.
      do {
        take(kOut, out_);
        take(kErr, err_);
      } while (ended && ::poll(polled_.data(), kProcess, 0) > 0 && out_.size() <= kMostOutput);
      if (err_.size() > kStderrKept) err_.erase(0, err_.size() - kStderrKept);
      if (out_.size() > kMostOutput) return Event::kTooMuch;
      if (ended) return Event::kEnded;
      if (polled_[kInterrupt].revents != 0) return Event::kInterrupt;
      if (steady_clock::now() >= deadline) return Event::kDeadline;
    }
  }

  std::string& out() { return out_; }
  std::string& err() { return err_; }

 private:
  enum { kOut, kErr, kProcess, kInterrupt };

  void take(size_t index, std::string& text) {
    pollfd& stream = polled_[index];
    if (stream.revents == 0) return;
    std::array<char, 64 << 10> piece;
    ssize_t got = ::read(stream.fd, piece.data(), piece.size());
    if (got > 0) text.append(piece.data(), static_cast<size_t>(got));
    if (got == 0 || (got < 0 && errno != EINTR)) stream.fd = -1;  // poll passes it over from now on
  }

  std::array<pollfd, 4> polled_;
  std::string out_, err_;
};

/// A command's stdin: a file in memory, so that nothing blocks and nobody gets SIGPIPE.
Fd as_stdin(const std::string& input) {
  if (input.empty()) return open("/dev/null", O_RDONLY);
  Fd fd(::memfd_create("stdin", MFD_CLOEXEC));
  if (!fd) throw sys_error("cannot make a memory file");
  write_full(fd.get(), input, "a memory file");
  if (::lseek(fd.get(), 0, SEEK_SET) != 0) throw sys_error("cannot rewind a memory file");
  return fd;
}

}  // namespace

Result ProcessRunner::run_any(const Command& command) {
  if (verbose_) debug("running: {}", quoted(command.argv));
  const std::string& name = command.argv.at(0);
  Fd in = as_stdin(command.input);
  Pipe out = make_pipe(), err = make_pipe();
  Process process = spawn(command.argv, command.env, command.cwd, in.get(),
                          command.stdout_fd.value_or(out.write.get()), err.write.get());
  Child child(process.pid, std::move(process.pidfd));
  Collector collector(child.pidfd(), out, err);
  std::string broken_off;
  switch (collector.wait(steady_clock::now() + command.timeout)) {
    case Collector::Event::kEnded: {
      int status = child.wait(kKillToGiveUp).value_or(128 + SIGKILL);
      return {.status = status, .out = std::move(collector.out()), .err = std::move(collector.err())};
    }
    case Collector::Event::kInterrupt:
      child.terminate();
      in_context("running: " + quoted(command.argv), check_interrupt);
      broken_off = "was interrupted";
      break;
    case Collector::Event::kDeadline:
      broken_off =
          std::format("did not end within {:g} s", std::chrono::duration<double>(command.timeout).count());
      break;
    case Collector::Event::kTooMuch:
      broken_off = std::format("wrote more than {} MiB", kMostOutput >> 20);
      break;
  }
  child.terminate();
  throw error("{} {}{}", name, broken_off, last_lines(collector.err()))
      .context("running: " + quoted(command.argv));
}

Result ProcessRunner::run(const Command& command) {
  Result result = run_any(command);
  if (result.status == 0) return result;
  throw error("{} failed ({}){}", command.argv[0], how_it_ended(result.status), last_lines(result.err))
      .context("running: " + quoted(command.argv));
}

Child Child::start(const std::vector<std::string>& argv, int in, int out, int err,
                   const std::map<std::string, std::string>& env) {
  Fd null = open("/dev/null", O_RDWR);
  Process process = spawn(argv, env, {}, in >= 0 ? in : null.get(), out >= 0 ? out : null.get(),
                          err >= 0 ? err : STDERR_FILENO);
  return {process.pid, std::move(process.pidfd)};
}

Child::Child(Child&& other) noexcept
    : pid_(std::exchange(other.pid_, -1)), pidfd_(std::move(other.pidfd_)), status_(other.status_) {}

Child& Child::operator=(Child&& other) noexcept {
  if (this != &other) {
    terminate();
    pid_ = std::exchange(other.pid_, -1);
    pidfd_ = std::move(other.pidfd_);
    status_ = other.status_;
  }
  return *this;
}

Child::~Child() { terminate(); }

std::optional<int> Child::wait(milliseconds timeout) {
  auto deadline = steady_clock::now() + timeout;
  while (pid_ >= 0) {
    pollfd process = {.fd = pidfd_.get(), .events = POLLIN, .revents = 0};
    int ready = ::poll(&process, 1, left(deadline));
    if (ready == 0) return std::nullopt;
    if (ready < 0 && errno == EINTR) continue;
    siginfo_t info = {};
    if (ready < 0 || ::waitid(P_PIDFD, static_cast<id_t>(pidfd_.get()), &info, WEXITED) != 0)
      throw sys_error("cannot wait for process {}", pid_);
    status_ = info.si_code == CLD_EXITED ? info.si_status : 128 + info.si_status;
    release();
  }
  return status_;
}

void Child::terminate() noexcept {
  if (pid_ < 0) return;
  try {
    // The whole session: what it started ends too.
    ::kill(-pid_, SIGTERM);
    if (wait(kTermToKill)) return;
    ::kill(-pid_, SIGKILL);
    if (!wait(kKillToGiveUp)) warn("process {} does not end even after SIGKILL", pid_);
  } catch (const Error& e) {
    warn("{}", e.what());
  }
  release();
}

pid_t Child::release() {
  pidfd_.close();
  return std::exchange(pid_, -1);
}

std::string quoted(const std::vector<std::string>& argv) {
  constexpr std::string_view kPlain =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789@%+=:,./-_^";
  std::string line;
  for (const std::string& word : argv) {
    if (!line.empty()) line += ' ';
    if (!word.empty() && word.find_first_not_of(kPlain) == std::string::npos) {
      line += word;
      continue;
    }
    line += '\'';
    for (char c : word) line += c == '\'' ? "'\\''" : std::string(1, c);
    line += '\'';
  }
  return line;
}

}  // namespace base
