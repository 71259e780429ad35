#include "migrate/inject.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sched.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <format>
#include <memory>
#include <optional>
#include <sstream>
#include <string>

#include "base/error.h"
#include "base/log.h"
#include "box/cgroup.h"

namespace migrate {
namespace {

constexpr uint64_t kUserCode = 0x33;      // the cs of 64-bit programs (arch/x86/include/asm/segment.h)
constexpr long kRestartNoHandler = -514;  // -ERESTARTNOHAND (include/linux/errno.h)
constexpr int kSystemCallStop = SIGTRAP | 0x80;
// PTRACE_O_SUSPEND_SECCOMP of linux/ptrace.h, which glibc's header lacks and does not go together with.
constexpr unsigned kSuspendSeccomp = 1U << 21;
// PIDFD_THREAD of linux/pidfd.h (Linux 6.9), which does not go together with fcntl.h.
constexpr int kPidfdThread = O_EXCL;
// Once it is at our system call it should take microseconds; frozen in the middle it takes until somebody
// thaws it.
constexpr std::chrono::nanoseconds kWorkPatience = std::chrono::seconds(10),
                                   kBackPatience = std::chrono::seconds(1);

/// One injection, from the stop to the detach. It runs in a process that shares our memory and may outlive
/// all our threads, which may hold any lock: nothing here takes one, so nothing allocates.
class Injection {
 public:
  Injection(pid_t process, pid_t thread, uint64_t call_at, uint64_t call_code,
            std::chrono::nanoseconds patience)
      : process_(process), thread_(thread), call_at_(call_at), call_code_(call_code), patience_(patience) {}

  void run();
  [[nodiscard]] int fault() const { return fault_; }
  /// Why there is none.
  [[nodiscard]] const char* why() const { return why_; }

 private:
  enum class Stop { kEnded, kTimeout, kSignal, kSystemCall, kTrap, kGroup };

  void trace(int request, uint64_t address, const void* data) const {
    ::ptrace(static_cast<__ptrace_request>(request), thread_, address, data);
  }
  [[nodiscard]] uint64_t peek(uint64_t address) const {
    return static_cast<uint64_t>(::ptrace(PTRACE_PEEKDATA, thread_, address, nullptr));
  }
  Stop next_stop(std::chrono::nanoseconds deadline);
  bool stop();
  bool examine();
  void leave_restartable_sequence();
  void let_it_restart();
  bool until_system_call_stop();
  std::optional<long> call(long number, uint64_t argument);
  bool work();
  bool back();

  pid_t process_, thread_;
  uint64_t call_at_, call_code_;
  std::chrono::nanoseconds patience_;
  int signal_ = 0;  ///< of the last kSignal
  bool sigstop_ = false;
  user_regs_struct registers_{};  ///< as it goes on with them
  uint64_t mask_ = 0;
  int fault_ = -1;
  const char* why_ = nullptr;
};

std::chrono::nanoseconds now() { return std::chrono::steady_clock::now().time_since_epoch(); }

Injection::Stop Injection::next_stop(std::chrono::nanoseconds deadline) {
  sigset_t child;
  ::sigemptyset(&child);
  ::sigaddset(&child, SIGCHLD);
  for (;;) {
    int status = 0;
    const pid_t pid = ::waitpid(thread_, &status, __WALL | WNOHANG);
    if (pid < 0 && errno != EINTR) return Stop::kEnded;
    if (pid == thread_) {
      if (!WIFSTOPPED(status)) return Stop::kEnded;
      signal_ = WSTOPSIG(status);
      if (status >> 16 == PTRACE_EVENT_STOP) return signal_ == SIGTRAP ? Stop::kTrap : Stop::kGroup;
      return signal_ == kSystemCallStop ? Stop::kSystemCall : Stop::kSignal;
    }
    const auto left = deadline - now();
    if (left <= std::chrono::nanoseconds(0)) return Stop::kTimeout;
    const timespec wait{left.count() / 1'000'000'000, left.count() % 1'000'000'000};
    ::sigtimedwait(&child, nullptr, &wait);
  }
}

void Injection::run() {
  ::setsid();  // what is sent to our process group is not meant for the box
  struct sigaction by_default{};
  ::sigaction(SIGCHLD, &by_default, nullptr);
  if (::ptrace(PTRACE_SEIZE, thread_, nullptr, PTRACE_O_TRACESYSGOOD) != 0) {
    why_ = "it cannot be traced";
    return;
  }
  // Whatever comes, the end of this process lets the other one go.
  if (!stop() || !examine()) return;
  if (!work()) return;
  trace(PTRACE_SETREGS, 0, &registers_);
  trace(PTRACE_SETSIGMASK, sizeof mask_, &mask_);
  trace(PTRACE_SETOPTIONS, 0, nullptr);
  trace(PTRACE_DETACH, 0, nullptr);
  if (sigstop_) ::syscall(SYS_tgkill, process_, thread_, SIGSTOP);
}

/// Stops it where it would also take a signal: there a system call that it is in can be taken up again.
bool Injection::stop() {
  trace(PTRACE_INTERRUPT, 0, nullptr);
  for (const auto deadline = now() + patience_;;) switch (next_stop(deadline)) {
      case Stop::kTrap:
        return true;
      case Stop::kSignal:  // one of its own, on its way already
        trace(PTRACE_CONT, 0, reinterpret_cast<const void*>(static_cast<intptr_t>(signal_)));
        break;
      case Stop::kSystemCall:
        trace(PTRACE_CONT, 0, nullptr);
        break;
      case Stop::kGroup:
        why_ = "it is stopped";
        return false;
      case Stop::kEnded:
        why_ = "it has ended";
        return false;
      case Stop::kTimeout:
        why_ = "it does not stop";
        return false;
    }
}

/// Nothing is changed yet.
bool Injection::examine() {
  trace(PTRACE_GETREGS, 0, &registers_);
  __ptrace_sud_config dispatch{};
  // A kernel before 6.4 cannot tell.
  trace(PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG, sizeof dispatch, &dispatch);
  if (registers_.cs != kUserCode)
    why_ = "it is not of x86-64";
  else if (dispatch.mode != 0)
    why_ = "it catches its own system calls";
  else if (peek(call_at_) != call_code_)
    why_ = "it has begun another program";
  else if (::ptrace(PTRACE_GETSIGMASK, thread_, sizeof mask_, &mask_) != 0)
    why_ = "it has ended";
  // Its seccomp filters may know nothing of userfaultfd(2), and kill. Off only while it is stopped or in our
  // hands.
  else if (::ptrace(PTRACE_SETOPTIONS, thread_, nullptr, PTRACE_O_TRACESYSGOOD | kSuspendSeccomp) != 0)
    why_ = "its seccomp filters cannot be suspended";
  if (why_ != nullptr) return false;
  leave_restartable_sequence();
  let_it_restart();
  return true;
}

/// In the middle of a restartable sequence (rseq(2)) the kernel, which sees it elsewhere, would forget that
/// it has to be begun again. So it goes on where the kernel would let it: at its abort handler.
void Injection::leave_restartable_sequence() {
  __ptrace_rseq_configuration rseq{};
  if (::ptrace(PTRACE_GET_RSEQ_CONFIGURATION, thread_, sizeof rseq, &rseq) <= 0 || rseq.rseq_abi_pointer == 0)
    return;
  const uint64_t section = peek(rseq.rseq_abi_pointer + 8);  // struct rseq, rseq_cs
  if (section == 0 || section == UINT64_MAX) return;
  // struct rseq_cs: version and flags, start_ip, post_commit_offset, abort_ip
  const uint64_t start = peek(section + 8), length = peek(section + 16), abort = peek(section + 24);
  if (abort != UINT64_MAX && registers_.rip - start < length) registers_.rip = abort;
}

/// Some system calls end with EINTR also when there is no signal for the process (signal(7)). Where nothing
/// of a timeout is lost by it, they are begun again; the kernel does that, or not, should there be a signal
/// with a handler after all.
void Injection::let_it_restart() {
  auto& r = registers_;
  if (static_cast<long>(r.rax) != -EINTR) return;
  bool forever = false;
  switch (static_cast<long>(r.orig_rax)) {
    case SYS_semop:
      forever = true;
      break;
    case SYS_epoll_wait:
    case SYS_epoll_pwait:
      forever = static_cast<int>(r.r10) < 0;
      break;
    case SYS_epoll_pwait2:
    case SYS_semtimedop:
      forever = r.r10 == 0;
      break;
    case SYS_rt_sigtimedwait:
      forever = r.rdx == 0;
      break;
    case SYS_io_getevents:
    case SYS_io_pgetevents:
      forever = r.r8 == 0;
      break;
    default:
      break;
  }
  if (forever) r.rax = static_cast<uint64_t>(kRestartNoHandler);
}

/// Without single steps: a SIGTRAP that a process blocks or ignores, the kernel makes deadly.
bool Injection::until_system_call_stop() {
  trace(PTRACE_SYSCALL, 0, nullptr);
  for (const auto deadline = now() + kWorkPatience;;) switch (next_stop(deadline)) {
      case Stop::kSystemCall:
        return true;
      case Stop::kSignal:
        if (signal_ != SIGSTOP) return false;  // the one that is not blocked; it gets it afterwards
        sigstop_ = true;
        [[fallthrough]];
      case Stop::kTrap:
      case Stop::kGroup:
        trace(PTRACE_SYSCALL, 0, nullptr);
        break;
      case Stop::kEnded:
      case Stop::kTimeout:
        return false;
    }
}

std::optional<long> Injection::call(long number, uint64_t argument) {
  user_regs_struct r = registers_;
  r.rip = call_at_;
  r.rax = static_cast<uint64_t>(number);
  r.rdi = argument;
  r.orig_rax = UINT64_MAX;  // in no system call: there is none to be restarted
  trace(PTRACE_SETREGS, 0, &r);
  if (!until_system_call_stop() || !until_system_call_stop()) return std::nullopt;
  trace(PTRACE_GETREGS, 0, &r);
  return static_cast<long>(r.rax);
}

/// False: there is nobody any more whom we could give his registers back.
bool Injection::work() {
  const uint64_t all = UINT64_MAX;
  trace(PTRACE_SETSIGMASK, sizeof all, &all);
  const auto made = call(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
  if (made && *made >= 0) {
    const int process =
        static_cast<int>(::syscall(SYS_pidfd_open, thread_, thread_ == process_ ? 0 : kPidfdThread));
    if (process >= 0) {
      fault_ = static_cast<int>(::syscall(SYS_pidfd_getfd, process, *made, 0));
      ::close(process);
    }
    if (fault_ < 0) why_ = "its userfaultfd cannot be taken over";
    call(SYS_close, static_cast<uint64_t>(*made));
  } else {
    why_ = made ? "it has no userfaultfd" : "it does not come to its system call";
  }
  return back();
}

/// From the end of our system call to where it was stopped first.
bool Injection::back() {
  trace(PTRACE_INTERRUPT, 0, nullptr);
  trace(PTRACE_CONT, 0, nullptr);
  for (const auto deadline = now() + kBackPatience;;) switch (next_stop(deadline)) {
      case Stop::kTrap:
      case Stop::kGroup:
        return true;
      case Stop::kSignal:
        if (signal_ == SIGSTOP) sigstop_ = true;
        [[fallthrough]];
      case Stop::kSystemCall:
        trace(PTRACE_CONT, 0, nullptr);
        break;
      case Stop::kEnded:
      case Stop::kTimeout:
        return false;
    }
}

// --- what can be found out while it runs

/// The state of a thread, as in /proc/PID/stat: R, S, D, T, t, Z, X; 0: it is gone.
char state_of(pid_t process, pid_t thread) {
  const auto stat = base::read_file_if_exists(std::format("/proc/{}/task/{}/stat", process, thread));
  const size_t end = stat ? stat->rfind(") ") : std::string::npos;
  return end == std::string::npos ? '\0' : (*stat)[end + 2];
}

/// One that can be stopped: the first, or another one while that waits in the kernel. 0: none.
pid_t find_thread(pid_t process) {
  const char first = state_of(process, process);
  if (first == 'R' || first == 'S') return process;
  if (first != 'D') return 0;
  const std::unique_ptr<DIR, int (*)(DIR*)> threads(::opendir(std::format("/proc/{}/task", process).c_str()),
                                                    ::closedir);
  while (const dirent* entry = threads ? ::readdir(threads.get()) : nullptr) {
    const pid_t thread = static_cast<pid_t>(std::strtol(entry->d_name, nullptr, 10));
    if (thread == 0) continue;
    const char state = state_of(process, thread);
    if (state == 'R' || state == 'S') return thread;
  }
  return process;  // it may wake up in time
}

/// Stopped in a frozen group it would come to no system call.
bool is_frozen(pid_t process) {
  std::istringstream groups(base::read_file(std::format("/proc/{}/cgroup", process)));
  for (std::string line; std::getline(groups, line);)
    if (line.starts_with("0::")) return box::Cgroup(box::cgroup_mount() + line.substr(3)).frozen();
  return false;
}

struct Code {
  uint64_t address, word;
};

/// A `syscall` instruction in the process's vDSO (vdso(7)), and the eight bytes there.
std::optional<Code> find_call(pid_t process) {
  std::istringstream maps(base::read_file(std::format("/proc/{}/maps", process)));
  for (std::string line; std::getline(maps, line);) {
    if (!line.ends_with("[vdso]")) continue;
    char* rest = nullptr;
    const uint64_t begin = std::strtoull(line.c_str(), &rest, 16), end = std::strtoull(rest + 1, nullptr, 16);
    std::array<char, 4 * 4096> code{};
    const base::Fd memory = base::open(std::format("/proc/{}/mem", process), O_RDONLY);
    const ssize_t got =
        ::pread(memory.get(), code.data(), std::min(end - begin, code.size()), static_cast<off_t>(begin));
    if (got < 64) return std::nullopt;
    const std::string_view text(code.data(), static_cast<size_t>(got) - sizeof(uint64_t));
    const size_t at = text.find("\x0f\x05");
    if (at == std::string_view::npos || text[4] != 2) return std::nullopt;  // ELFCLASS64
    Code found{begin + at, 0};
    std::memcpy(&found.word, code.data() + at, sizeof found.word);
    return found;
  }
  return std::nullopt;
}

int run_injection(void* injection) {
  static_cast<Injection*>(injection)->run();
  return 0;
}

/// In a process of its own, which has our memory and our descriptors; this thread waits for it (vfork(2)).
void run_apart(Injection& injection) {
  constexpr size_t kStack = 256 << 10;
  const auto stack = std::make_unique_for_overwrite<std::byte[]>(kStack);
  sigset_t all, before;
  ::sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &before);
  const pid_t pid =
      ::clone(run_injection, stack.get() + kStack, CLONE_VM | CLONE_FILES | CLONE_VFORK, &injection);
  const int failed = errno;
  if (pid > 0) ::waitpid(pid, nullptr, __WALL);
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  errno = failed;
  if (pid < 0) throw base::sys_error("cannot start a process");
}

}  // namespace

base::Fd inject_userfaultfd(pid_t process, std::chrono::milliseconds patience) {
  const char* why = nullptr;
  try {
    const pid_t thread = find_thread(process);
    const auto code = find_call(process);
    if (thread == 0)
      why = "it is stopped";
    else if (is_frozen(process))
      why = "it is frozen";
    else if (!code)
      why = "it has no vDSO of x86-64";
    else {
      Injection injection(process, thread, code->address, code->word, patience);
      run_apart(injection);
      if (injection.fault() >= 0) return base::Fd(injection.fault());
      why = injection.why();
    }
  } catch (const base::Error& e) {  // it may have ended meanwhile
    base::debug("{}", e.message());
    why = "it cannot be looked at";
  }
  base::debug("process {} gets no userfaultfd: {}", process, why);
  return {};
}

}  // namespace migrate
