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
#include <sstream>

#include "base/error.h"
#include "base/fd.h"
#include "box/criu_reason.h"

namespace box {
namespace {

// CRIU itself gives up on what it waits for; this is for the case that it does not.
constexpr auto kDeadline = std::chrono::minutes(10);
constexpr auto kCheckEvery = std::chrono::milliseconds(200);
// Whoever asked it for something has gone: then it takes back what it has restored, and ends.
constexpr auto kTakesBack = std::chrono::seconds(2);

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

/// CRIU holds the lock as long as it lives, and has its pid in it.
void end_criu(const std::string& lock) {
  const base::Fd file = base::open(lock, O_RDWR);
  const auto ended = [&] { return ::flock(file.get(), LOCK_EX | LOCK_NB) == 0; };
  const auto deadline = std::chrono::steady_clock::now() + kTakesBack;
  while (!ended()) {
    if (std::chrono::steady_clock::now() < deadline) {
      ::usleep(10'000);
      continue;
    }
    if (const int pid = std::atoi(base::read_file(lock).c_str()); pid > 0) ::kill(pid, SIGKILL);
    return;
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
    if (work_.prepare) work_.prepare();
    char told = 0;
    ::_exit(::read(g_answer, &told, 1) == 1 && work_.request(told) >= 0 ? 0 : 1);
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
  auto deadline = std::chrono::steady_clock::now() + kDeadline;
  bool timed_out = false;
  std::exception_ptr failure;
  for (;;) {
    pollfd p{question_.read.get(), POLLIN, 0};
    const int n = ::poll(&p, 1, static_cast<int>(kCheckEvery.count()));
    if (n < 0 && errno == EINTR) continue;
    char c = 0;
    if (n <= 0) {
      try {
        if (work_.check) work_.check();
        timed_out = std::chrono::steady_clock::now() > deadline;
      } catch (...) {
        failure = std::current_exception();
      }
      if (!failure && !timed_out) continue;
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
    deadline = std::chrono::steady_clock::now() + kDeadline;  // what we did meanwhile is none of CRIU's time
  }
  wait();
  if ((failure || timed_out) && work_.may_kill) end_criu(work_.lock);
  if (failure) std::rethrow_exception(failure);
  if (timed_out)
    throw base::error("CRIU did not finish to {} in {} minutes", work_.what, kDeadline.count())
        .hint("its log is " + work_.log);
  if (status_ != 0) {
    if (auto known = criu_reason(base::read_file_if_exists(work_.log, 256 << 20).value_or("")))
      throw base::error("CRIU could not {}: {}", work_.what, known->sentence).hint(known->hint);
    std::string lines = error_lines(work_.log);
    throw base::error("CRIU could not {}{}{}", work_.what, lines.empty() ? "" : ": ", lines)
        .hint("the whole log is " + work_.log);
  }
}

}  // namespace box
