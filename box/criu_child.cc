#include "box/criu_child.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <format>
#include <fstream>
#include <sstream>

#include "base/error.h"
#include "base/fd.h"
#include "base/log.h"
#include "box/criu_reason.h"

namespace box {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

// CRIU itself gives up on what it waits for; this is for the case that it does not.
constexpr auto kDeadline = 10min;
constexpr auto kCheckEvery = 200ms;
// Whoever asked it for something has gone: it hears of that at its next notification, takes back what it has
// done, and ends. So long it may do nothing, and need for all of it.
constexpr auto kIdle = 2s;
constexpr auto kTakesBack = 1min;

// In every log, of what is no failure: that no iptables is found, and that a limit stays as it is.
constexpr const char* kNoReason[] = {"tables-save", "tables-restore", "tables-legacy",
                                     "Can't setup RLIMIT_NOFILE"};

/// CRIU's own words: the lines of its log that say Error, the first ones, since the rest follow
/// from them.
std::string error_lines(const std::string& log) {
  auto text = base::read_file_if_exists(log, 256 << 20);
  if (!text) return {};
  std::istringstream in(*text);
  std::string found;
  int count = 0;
  for (std::string line; count < 3 && std::getline(in, line);) {
    const auto at = line.find("Error (");
    if (at == std::string::npos || std::ranges::any_of(kNoReason, [&](auto* s) { return line.contains(s); }))
      continue;
    found += (count++ ? "; " : "") + line.substr(at);
  }
  return found;
}

/// CRIU's pid is in the lock.
int pid_of_criu(const std::string& lock) {
  return std::atoi(base::read_file_if_exists(lock).value_or("").c_str());
}

std::string line_of(const std::string& path) {
  std::ifstream in(path);
  std::string line;
  std::getline(in, line);
  return line;
}

/// Since when CRIU has not run on any processor, nor a child of its, such as the tar of a tmpfs.
class Idle {
 public:
  explicit Idle(std::string lock) : lock_(std::move(lock)) {}
  Clock::duration time() {
    const int criu = pid_of_criu(lock_);
    std::string now = ran(criu);
    const bool unknown = now.empty();  // a kernel without CONFIG_SCHED_INFO
    std::istringstream children(line_of(std::format("/proc/{0}/task/{0}/children", criu)));
    for (int child = 0; children >> child;) now += '\n' + ran(child);
    if (unknown || now != seen_) since_ = Clock::now();
    seen_ = std::move(now);
    return Clock::now() - since_;
  }

 private:
  /// ns that it ran and that it waited for a processor, and how often (sched-stats.rst of Linux).
  static std::string ran(int pid) { return line_of(std::format("/proc/{}/schedstat", pid)); }

  std::string lock_;
  std::string seen_;
  Clock::time_point since_ = Clock::now();
};

/// CRIU holds the lock as long as it lives.
void end_criu(const std::string& lock) {
  const base::Fd file = base::open(lock, O_RDWR);
  const auto deadline = Clock::now() + kTakesBack;
  bool hangs = false;
  for (Idle idle(lock); ::flock(file.get(), LOCK_EX | LOCK_NB) != 0; ::usleep(10'000)) {
    if (idle.time() < kIdle && Clock::now() < deadline) continue;
    const int pid = pid_of_criu(lock);
    if (pid <= 0) return;
    // Whom somebody has stopped, can go on.
    ::kill(pid, hangs ? SIGKILL : SIGCONT);
    if (std::exchange(hangs, true)) {
      base::warn("CRIU did not end, and was killed: a process that it was at work in may have ended with it");
      return;
    }
    idle = Idle(lock);
  }
}

// What the child below shares with libcriu's callback, which takes no argument of ours.
int g_question = -1, g_answer = -1, g_service = -1, g_guard = -1;
std::span<const Halt> g_halts;

}  // namespace

int on_notify(const char* action) {
  for (size_t i = 0; i < g_halts.size(); ++i) {
    if (std::strcmp(action, g_halts[i].action) != 0) continue;
    char c = static_cast<char>(i);
    return ::write(g_question, &c, 1) == 1 && ::read(g_answer, &c, 1) == 1 && c == 'y' ? 0 : -1;
  }
  return 0;
}

int start_criu(const std::string& program) {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends) != 0) return -1;
  // What CRIU has begun to restore can outlive it: it waits for CRIU, and has the socket's other end, so that
  // we would wait as well. Answers that have come can still be read. (A signal, as this process, which has no
  // other child, may be too short of memory for a thread.)
  g_service = ends[0];
  struct sigaction on_end{};
  on_end.sa_handler = [](int) { ::shutdown(g_service, SHUT_RD); };
  on_end.sa_flags = SA_RESTART | SA_NOCLDSTOP;
  ::sigaction(SIGCHLD, &on_end, nullptr);
  const pid_t child = ::fork();
  if (child == 0) {
    const std::string pid = std::to_string(::getpid()) + "\n";
    (void)!::pwrite(g_guard, pid.data(), pid.size(), 0);
    ::close(ends[0]);
    ::execlp(program.c_str(), program.c_str(), "swrk", std::to_string(ends[1]).c_str(), nullptr);
    ::_exit(127);
  }
  ::close(ends[1]);
  return child < 0 ? -1 : ends[0];
}

CriuChild::CriuChild(CriuWork work)
    : work_(std::move(work)), question_(base::make_pipe()), answer_(base::make_pipe()) {
  base::Fd guard = base::open(work_.lock, O_RDWR | O_CREAT);
  const pid_t parent = ::getpid();
  child_ = ::fork();
  if (child_ < 0) throw base::sys_error("cannot start a process");
  if (child_ == 0) {
    // With this process CRIU's request socket goes: CRIU then lets the box be and ends.
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() != parent) ::_exit(1);
    // Ctrl-C goes to every process of the terminal's group. CRIU would die of it with its parasite
    // still in the box.
    ::setsid();
    // CRIU inherits it, what it restores does not: so it tells whether CRIU is at work.
    ::flock(guard.get(), LOCK_EX);
    ::fcntl(guard.get(), F_SETFD, 0);
    g_guard = guard.get();
    question_.read.close();
    answer_.write.close();
    g_question = question_.write.get();
    g_answer = answer_.read.get();
    g_halts = work_.halts;
    // start_criu() wants it, and so does CRIU; whoever started us may have blocked it.
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    ::sigprocmask(SIG_UNBLOCK, &set, nullptr);
    bool done = false;
    try {
      if (work_.prepare) work_.prepare();
      char told = 0;
      done = ::read(g_answer, &told, 1) == 1 && work_.request(told) >= 0;
    } catch (...) {
      // Thrown on, it would be undone here what our parent has done.
    }
    ::_exit(done ? 0 : 1);
  }
  question_.write.close();
  answer_.read.close();
}

CriuChild::~CriuChild() {
  if (child_ < 0) return;
  ::kill(child_, SIGKILL);
  wait();
}

void CriuChild::wait() {
  while (::waitpid(child_, &status_, 0) < 0 && errno == EINTR) {
  }
  child_ = -1;
}

void CriuChild::run(char told) {
  base::write_full(answer_.write.get(), std::string_view(&told, 1), "the child that runs CRIU");
  const auto later = [] { return Clock::now() + kDeadline; };
  auto deadline = later();
  Idle idle(work_.lock);
  std::exception_ptr failure;
  for (;;) {
    pollfd p{question_.read.get(), POLLIN, 0};
    const int n = ::poll(&p, 1, static_cast<int>(kCheckEvery.count()));
    if (n < 0 && errno == EINTR) continue;
    char c = 0;
    if (n <= 0) {
      try {
        if (work_.check && !failure) work_.check();
        if (idle.time() > (failure ? kIdle : work_.patience))
          throw base::error("CRIU did not {}: it has not run for {} s", work_.what, work_.patience.count())
              .hint("its log is " + work_.log);
        if (Clock::now() > deadline)
          throw base::error("CRIU did not {} in {} minutes", work_.what, kDeadline.count())
              .hint("its log is " + work_.log);
        continue;
      } catch (...) {
        if (!failure) failure = std::current_exception();
      }
      ::kill(child_, SIGKILL);
      break;
    }
    if (::read(question_.read.get(), &c, 1) <= 0) break;  // it has ended
    try {
      work_.halts[static_cast<size_t>(c)].work();
    } catch (...) {
      failure = std::current_exception();
    }
    base::write_full(answer_.write.get(), failure ? "n" : "y", "the child that runs CRIU");
    // What we did meanwhile is none of CRIU's time.
    deadline = later();
    idle = Idle(work_.lock);
  }
  wait();
  if (failure) {
    end_criu(work_.lock);
    std::rethrow_exception(failure);
  }
  if (status_ != 0) {
    if (auto known = criu_reason(base::read_file_if_exists(work_.log, 256 << 20).value_or("")))
      throw base::error("CRIU could not {}: {}", work_.what, known->sentence).hint(known->hint);
    std::string lines = error_lines(work_.log);
    throw base::error("CRIU could not {}{}{}", work_.what, lines.empty() ? "" : ": ", lines)
        .hint("the whole log is " + work_.log);
  }
}

}  // namespace box
