#include "migrate/inject.h"

#include <elf.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/rseq.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstring>
#include <format>
#include <optional>
#include <thread>
#include <vector>

#include "base/mount.h"
#include "tests/unit/migrate/boxed.h"

namespace migrate {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

std::string status_of(pid_t pid, std::string_view key) {
  const std::string status = base::read_file(std::format("/proc/{}/status", pid));
  const size_t at = status.find(std::format("\n{}:", key));
  return status.substr(at + 1, status.find('\n', at + 1) - at - 1);
}

class InjectTest : public testing::Test {
 protected:
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "needs root: it traces processes";
  }
  static base::Fd inject(const Boxed& box) { return inject_userfaultfd(box.pid(), 2s); }
  static size_t files_of(pid_t pid) {
    size_t count = 0;
    for (int fd = 0; fd < 256; ++fd)
      if (base::exists(std::format("/proc/{}/fd/{}", pid, fd))) ++count;
    return count;
  }
  /// Again and again while the process goes about its work: `times`, or for so long. How often.
  static int disturb(const Boxed& box, int times, std::chrono::milliseconds how_long) {
    int count = 0;
    for (const auto until = Clock::now() + how_long; Clock::now() < until && count < times; ++count) {
      const base::Fd fault = inject(box);
      EXPECT_TRUE(fault) << "after " << count;
      if (!fault) break;
      std::this_thread::sleep_for(1ms);
    }
    return count;
  }
  /// `body` waits for something, and says whether it got it: from `end`, or from a timeout that is longer
  /// than 400 ms.
  static void expect_undisturbed(const std::function<int()>& body,
                                 const std::function<void(Boxed&)>& end = {}) {
    Boxed box([&](Boxed& self) {
      self.tell();
      return body();
    });
    ASSERT_TRUE(box.wait_step());
    ASSERT_TRUE(box.comes_to('S'));
    if (end)
      EXPECT_EQ(200, disturb(box, 200, 60s));
    else
      EXPECT_LT(0, disturb(box, 1000, 400ms));
    if (end) {
      EXPECT_TRUE(box.comes_to('S'));
      end(box);
    }
    EXPECT_EQ(0, box.wait());
  }
  static char box_state(pid_t pid) { return status_of(pid, "State")[7]; }
};

TEST_F(InjectTest, ItIsOfTheOthersMemory) {
  auto* memory =
      static_cast<char*>(::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  Boxed box([&](Boxed& self) {
    self.step();
    return memory[0];
  });
  ASSERT_TRUE(box.wait_step());
  const size_t files = files_of(box.pid());
  const base::Fd fault = inject(box);
  ASSERT_TRUE(fault);
  EXPECT_EQ(files, files_of(box.pid()));
  EXPECT_EQ(FD_CLOEXEC, ::fcntl(fault.get(), F_GETFD));
  EXPECT_EQ("TracerPid:\t0", status_of(box.pid(), "TracerPid"));
  // What is not in its memory, we give it.
  uffdio_api api{UFFD_API, 0, 0};
  ASSERT_EQ(0, ::ioctl(fault.get(), UFFDIO_API, &api));
  uffdio_register range{{reinterpret_cast<uint64_t>(memory), 4096}, UFFDIO_REGISTER_MODE_MISSING, 0};
  ASSERT_EQ(0, ::ioctl(fault.get(), UFFDIO_REGISTER, &range));
  const std::vector<char> page(4096, 7);
  uffdio_copy copy{reinterpret_cast<uint64_t>(memory), reinterpret_cast<uint64_t>(page.data()), 4096, 0, 0};
  ASSERT_EQ(0, ::ioctl(fault.get(), UFFDIO_COPY, &copy)) << errno;
  box.go();
  EXPECT_EQ(7, box.wait());
}

// --- what it is in the middle of

TEST_F(InjectTest, Nanosleep) {
  expect_undisturbed([] {
    const auto begin = Clock::now();
    const timespec time{0, 900'000'000};
    if (::syscall(SYS_nanosleep, &time, nullptr) != 0) return 1;
    const auto took = Clock::now() - begin;
    return took >= 900ms && took < 60s ? 0 : 2;
  });
}

TEST_F(InjectTest, Poll) {
  expect_undisturbed([] {
    const auto begin = Clock::now();
    const base::Pipe pipe = base::make_pipe();
    pollfd wait{pipe.read.get(), POLLIN, 0};
    if (::poll(&wait, 1, 900) != 0) return 1;
    return Clock::now() - begin >= 900ms ? 0 : 2;
  });
}

TEST_F(InjectTest, ReadOfAPipe) {
  base::Pipe pipe = base::make_pipe();
  expect_undisturbed(
      [&] {
        char byte = 0;
        return ::read(pipe.read.get(), &byte, 1) == 1 && byte == 'r' ? 0 : 1;
      },
      [&](Boxed&) { base::write_full(pipe.write.get(), "r", "pipe"); });
}

TEST_F(InjectTest, EpollWaitWhichNeverRestarts) {
  base::Pipe pipe = base::make_pipe();
  expect_undisturbed(
      [&] {
        const base::Fd poll(::epoll_create1(EPOLL_CLOEXEC));
        epoll_event event{};
        event.events = EPOLLIN;
        ::epoll_ctl(poll.get(), EPOLL_CTL_ADD, pipe.read.get(), &event);
        return ::epoll_wait(poll.get(), &event, 1, -1) == 1 ? 0 : 1;
      },
      [&](Boxed&) { base::write_full(pipe.write.get(), "r", "pipe"); });
}

TEST_F(InjectTest, Sigwait) {
  expect_undisturbed(
      [] {
        sigset_t set;
        ::sigemptyset(&set);
        ::sigaddset(&set, SIGUSR1);
        ::sigprocmask(SIG_BLOCK, &set, nullptr);
        return ::syscall(SYS_rt_sigtimedwait, &set, nullptr, nullptr, 8) == SIGUSR1 ? 0 : 1;
      },
      [](Boxed& box) { box.signal(SIGUSR1); });
}

TEST_F(InjectTest, FutexWithATimeout) {
  expect_undisturbed([] {
    const auto begin = Clock::now();
    uint32_t word = 1;
    const timespec time{0, 900'000'000};
    if (::syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 1, &time, nullptr, 0) != -1 || errno != ETIMEDOUT)
      return 1;
    return Clock::now() - begin >= 900ms ? 0 : 2;
  });
}

volatile sig_atomic_t handled = 0;
void count_signal(int) { handled = handled + 1; }

/// The mask of sigsuspend(2) holds while it waits, and the one of before afterwards.
TEST_F(InjectTest, Sigsuspend) {
  expect_undisturbed(
      [] {
        sigset_t usr1, usr2, now;
        ::sigemptyset(&usr1);
        ::sigaddset(&usr1, SIGUSR1);
        ::sigprocmask(SIG_SETMASK, &usr1, nullptr);
        ::signal(SIGUSR1, count_signal);
        ::sigemptyset(&usr2);
        ::sigaddset(&usr2, SIGUSR2);
        if (::sigsuspend(&usr2) != -1 || errno != EINTR || handled != 1) return 1;
        ::sigprocmask(SIG_SETMASK, nullptr, &now);
        return ::sigismember(&now, SIGUSR1) == 1 && ::sigismember(&now, SIGUSR2) == 0 ? 0 : 2;
      },
      [](Boxed& box) { box.signal(SIGUSR1); });
}

/// A handler ends epoll_wait(2), also when its signal comes at the same time as we do.
TEST_F(InjectTest, EpollWaitThatASignalEnds) {
  for (int round = 0; round < 100; ++round) {
    Boxed box([&](Boxed& self) {
      ::signal(SIGUSR1, count_signal);
      sigset_t set, none;
      ::sigemptyset(&none);
      ::sigemptyset(&set);
      ::sigaddset(&set, SIGUSR1);
      ::sigprocmask(SIG_SETMASK, &set, nullptr);
      const base::Fd poll(::epoll_create1(EPOLL_CLOEXEC));
      self.tell();
      epoll_event event{};
      return ::epoll_pwait(poll.get(), &event, 1, -1, &none) == -1 && errno == EINTR && handled == 1 ? 0 : 1;
    });
    ASSERT_TRUE(box.wait_step());
    ASSERT_TRUE(box.comes_to('S'));
    std::jthread other([&] {
      std::this_thread::sleep_for(std::chrono::microseconds(round * 3));
      box.signal(SIGUSR1);
    });
    static_cast<void>(inject(box));
    EXPECT_EQ(0, box.wait());
  }
}

/// Computes something that a changed register would change, and says so.
uint64_t compute(uint64_t seed, int rounds) {
  double real = 1;
  for (int i = 0; i < rounds; ++i) {
    seed = seed * 6364136223846793005U + 1442695040888963407U;
    seed ^= seed >> 29;
    real = real * 1.0000001 + static_cast<double>(seed & 0xff);
  }
  uint64_t bits = 0;
  std::memcpy(&bits, &real, sizeof bits);
  return seed ^ bits;
}

TEST_F(InjectTest, TimersAndBusyThreads) {
  auto* stop = static_cast<std::atomic<bool>*>(
      ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  Boxed box([&](Boxed& self) {
    ::signal(SIGALRM, count_signal);
    const uint64_t right = compute(1, 10'000);
    std::atomic<bool> wrong = false;
    auto work = [&] {
      while (!*stop)
        if (compute(1, 10'000) != right) wrong = true;
    };
    std::vector<std::jthread> threads;
    threads.reserve(7);
    for (int i = 0; i < 7; ++i) threads.emplace_back(work);
    const itimerval timer{{0, 1000}, {0, 1000}};
    ::setitimer(ITIMER_REAL, &timer, nullptr);
    self.tell();
    work();
    threads.clear();
    sigset_t now;
    ::sigprocmask(SIG_SETMASK, nullptr, &now);
    if (::sigismember(&now, SIGALRM) != 0) return 3;
    return wrong ? 1 : handled < 10 ? 2 : 0;
  });
  ASSERT_TRUE(box.wait_step());
  EXPECT_EQ(200, disturb(box, 200, 60s));
  *stop = true;
  EXPECT_EQ(0, box.wait());
}

/// A thread that is in a restartable sequence all the time: it has to be begun again after each stop.
TEST_F(InjectTest, RestartableSequences) {
  struct Shared {
    std::atomic<uint64_t> aborts;
    std::atomic<uint32_t> stop;
  };
  auto* shared =
      static_cast<Shared*>(::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  Boxed box([&](Boxed& self) {
    if (__rseq_size == 0) return 77;  // glibc has not registered one
    auto* area =
        reinterpret_cast<struct rseq*>(static_cast<char*>(__builtin_thread_pointer()) + __rseq_offset);
    self.tell();
    uint64_t aborts = 0;
    while (shared->stop.load() == 0) {
      bool aborted = false;
      // struct rseq_cs; the signature before the abort handler is glibc's RSEQ_SIG.
      asm volatile goto(
          ".pushsection __rseq_test, \"aw\"\n"
          ".balign 32\n"
          "3: .long 0, 0\n"
          ".quad 1f, 2f - 1f, 4f\n"
          ".popsection\n"
          "leaq 3b(%%rip), %%rax\n"
          "movq %%rax, 8(%0)\n"
          "1: pause\n"
          "cmpl $0, (%1)\n"
          "je 1b\n"
          "2: jmp 5f\n"
          ".byte 0x0f, 0xb9, 0x3d\n"
          ".long 0x53053053\n"
          "4: jmp %l[again]\n"
          "5:\n"
          :
          : "r"(area), "r"(&shared->stop)
          : "rax", "memory", "cc"
          : again);
      continue;
    again:
      aborted = true;
      if (aborted) shared->aborts = ++aborts;
    }
    return 0;
  });
  ASSERT_TRUE(box.wait_step());
  for (int i = 0; i < 100; ++i) {
    while (box_state(box.pid()) != 'R') std::this_thread::sleep_for(1ms);
    const uint64_t before = shared->aborts;
    ASSERT_TRUE(inject(box));
    const auto until = Clock::now() + 10s;
    while (shared->aborts == before && Clock::now() < until) std::this_thread::sleep_for(1ms);
    ASSERT_LT(before, shared->aborts) << "after " << i;
  }
  shared->stop = 1;
  EXPECT_EQ(0, box.wait());
}

// --- what it may not do, or cannot

/// A filter that kills who calls userfaultfd(2).
void install_filter() {
  std::array filter = {
      sock_filter BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      sock_filter BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_userfaultfd, 0, 1),
      sock_filter BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
      sock_filter BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const sock_fprog program{filter.size(), filter.data()};
  ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
  ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}

TEST_F(InjectTest, ASeccompFilterIsLeftOutAndStays) {
  Boxed box([](Boxed& self) {
    install_filter();
    self.step();
    ::syscall(SYS_userfaultfd, 0);
    return 1;
  });
  ASSERT_TRUE(box.wait_step());
  EXPECT_EQ("Seccomp:\t2", status_of(box.pid(), "Seccomp"));
  EXPECT_TRUE(inject(box));
  EXPECT_EQ(50, disturb(box, 50, 60s));
  box.go();
  EXPECT_EQ(-SIGSYS, box.wait());
}

TEST_F(InjectTest, StrictSeccomp) {
  Boxed box([](Boxed& self) {
    ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT);
    self.step();
    ::syscall(SYS_exit, 5);
    return 1;
  });
  ASSERT_TRUE(box.wait_step());
  EXPECT_TRUE(inject(box));
  box.go();
  EXPECT_EQ(5, box.wait());
}

TEST_F(InjectTest, AnotherUserAndUserNamespace) {
  Boxed box([](Boxed& self) {
    if (::setresgid(65534, 65534, 65534) != 0 || ::setresuid(65534, 65534, 65534) != 0) return 1;
    if (::unshare(CLONE_NEWUSER) != 0) return 2;
    self.step();
    return 0;
  });
  ASSERT_TRUE(box.wait_step());
  EXPECT_TRUE(inject(box));
  box.go();
  EXPECT_EQ(0, box.wait());
}

TEST_F(InjectTest, AStoppedProcessStaysStopped) {
  Boxed box([](Boxed& self) {
    self.step();
    return 0;
  });
  ASSERT_TRUE(box.wait_step());
  box.signal(SIGSTOP);
  ASSERT_TRUE(box.comes_to('T'));
  EXPECT_FALSE(inject(box));
  EXPECT_EQ('T', box_state(box.pid()));
  box.signal(SIGCONT);
  EXPECT_TRUE(inject(box));
  box.go();
  EXPECT_EQ(0, box.wait());
}

/// It is stopped at some instant while we are at it, and then is stopped.
TEST_F(InjectTest, StoppedInTheMiddle) {
  Boxed box([](Boxed& self) {
    self.step();
    return 0;
  });
  ASSERT_TRUE(box.wait_step());
  for (int round = 0; round < 200; ++round) {
    {
      std::jthread other([&] {
        std::this_thread::sleep_for(std::chrono::microseconds(round * 2));
        box.signal(SIGSTOP);
      });
      static_cast<void>(inject(box));
    }
    ASSERT_TRUE(box.comes_to('T')) << round;
    box.signal(SIGCONT);
    ASSERT_TRUE(box.comes_to('S')) << round;
  }
  box.go();
  EXPECT_EQ(0, box.wait());
}

TEST_F(InjectTest, ATracedProcess) {
  Boxed box([](Boxed& self) {
    self.step();
    return 0;
  });
  ASSERT_TRUE(box.wait_step());
  ASSERT_EQ(0, ::ptrace(PTRACE_SEIZE, box.pid(), nullptr, nullptr));
  EXPECT_FALSE(inject(box));
  ASSERT_EQ(0, ::ptrace(PTRACE_INTERRUPT, box.pid(), nullptr, nullptr));
  int status = 0;
  ASSERT_EQ(box.pid(), ::waitpid(box.pid(), &status, 0));
  EXPECT_FALSE(inject(box));
  ::ptrace(PTRACE_DETACH, box.pid(), nullptr, nullptr);
  EXPECT_TRUE(inject(box));
}

TEST_F(InjectTest, AProcessThatHasEnded) {
  Boxed box([](Boxed&) { return 0; });
  ASSERT_TRUE(box.comes_to('Z'));
  EXPECT_FALSE(inject(box));
  const pid_t pid = box.pid();
  box.wait();
  EXPECT_FALSE(inject_userfaultfd(pid, 1s));
}

TEST_F(InjectTest, NoRoomForAFile) {
  Boxed box([](Boxed& self) {
    const rlimit none{0, 0};
    ::setrlimit(RLIMIT_NOFILE, &none);
    self.step();
    return 0;
  });
  ASSERT_TRUE(box.wait_step());
  EXPECT_FALSE(inject(box));
  box.go();
  EXPECT_EQ(0, box.wait());
}

TEST_F(InjectTest, NoVdso) {
  Boxed box([](Boxed& self) {
    uint64_t begin = 0, end = 0;
    const std::string maps = base::read_file("/proc/self/maps");
    const size_t name = maps.find("[vdso]");
    const size_t line = maps.rfind('\n', name) + 1;
    if (std::sscanf(maps.c_str() + line, "%lx-%lx", &begin, &end) != 2) return 1;
    if (::munmap(reinterpret_cast<void*>(begin), end - begin) != 0) return 2;
    self.step();
    return 0;
  });
  ASSERT_TRUE(box.wait_step());
  EXPECT_FALSE(inject(box));
  box.go();
  EXPECT_EQ(0, box.wait());
}

TEST_F(InjectTest, AProgramOf32Bits) {
  // int 0x80 with pause(2), for ever.
  constexpr unsigned char kCode[] = {0xb8, 29, 0, 0, 0, 0xcd, 0x80, 0xeb, 0xf7};
  struct {
    Elf32_Ehdr head;
    Elf32_Phdr load;
    unsigned char code[sizeof kCode];
  } file{};
  constexpr uint32_t kAt = 0x08048000;
  std::memcpy(file.head.e_ident, ELFMAG "\1\1\1", 7);
  file.head.e_type = ET_EXEC;
  file.head.e_machine = EM_386;
  file.head.e_version = 1;
  file.head.e_entry = kAt + offsetof(decltype(file), code);
  file.head.e_phoff = offsetof(decltype(file), load);
  file.head.e_ehsize = sizeof file.head;
  file.head.e_phentsize = sizeof file.load;
  file.head.e_phnum = 1;
  std::memcpy(file.code, kCode, sizeof kCode);
  file.load = {PT_LOAD, 0, kAt, kAt, sizeof file, sizeof file, PF_R | PF_X, 4096};
  const auto directory = base::TempDir::make("/var/tmp", "drover-unit-");
  const std::string path = directory.path() + "/pause";
  base::write_file(path, {reinterpret_cast<const char*>(&file), sizeof file});
  ASSERT_EQ(0, ::chmod(path.c_str(), 0755));
  Boxed box([&](Boxed& self) {
    self.step();
    ::execl(path.c_str(), path.c_str(), nullptr);
    return 1;
  });
  ASSERT_TRUE(box.wait_step());
  box.go();
  while (base::read_file(std::format("/proc/{}/comm", box.pid())) != "pause\n" && box_state(box.pid()) != 'Z')
    std::this_thread::sleep_for(1ms);
  if (box_state(box.pid()) == 'Z') GTEST_SKIP() << "this kernel runs no programs of 32 bits";
  ASSERT_TRUE(box.comes_to('S'));
  EXPECT_FALSE(inject(box));
  EXPECT_EQ('S', box_state(box.pid()));
}

TEST_F(InjectTest, UninterruptibleSleepHasADeadline) {
  // Whoever waits for a child of vfork(2) does so uninterruptibly.
  auto* stop = static_cast<std::atomic<bool>*>(
      ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  Boxed box([&](Boxed&) {
    std::array<char, 1 << 16> stack{};
    const auto child = [](void* flag) {
      while (!*static_cast<std::atomic<bool>*>(flag)) ::usleep(1000);
      return 0;
    };
    ::clone(child, stack.data() + stack.size(), CLONE_VM | CLONE_VFORK | SIGCHLD, stop);
    return 0;
  });
  ASSERT_TRUE(box.comes_to('D'));
  EXPECT_FALSE(inject_userfaultfd(box.pid(), 20ms));
  EXPECT_EQ("TracerPid:\t0", status_of(box.pid(), "TracerPid"));
  *stop = true;
  EXPECT_EQ(0, box.wait());
}

/// Whoever injects may be killed at any instant.
TEST_F(InjectTest, KilledInTheMiddle) {
  Boxed box([](Boxed& self) {
    self.step();
    return 0;
  });
  ASSERT_TRUE(box.wait_step());
  const size_t files = files_of(box.pid());
  for (int round = 0; round < 100; ++round) {
    Boxed mover([&](Boxed& self) {
      self.tell();
      for (;;) static_cast<void>(inject(box));
      return 0;
    });
    ASSERT_TRUE(mover.wait_step());
    std::this_thread::sleep_for(std::chrono::microseconds(200 + round * 37));
    mover.signal(SIGKILL);
    EXPECT_EQ(-SIGKILL, mover.wait());
    EXPECT_FALSE(
        mover.wait_step());  // the process that does the work has its pipes as well, and has ended now
    EXPECT_EQ("TracerPid:\t0", status_of(box.pid(), "TracerPid"));
  }
  EXPECT_EQ(files, files_of(box.pid()));
  EXPECT_TRUE(inject(box));
  box.go();
  EXPECT_EQ(0, box.wait());
}

}  // namespace
}  // namespace migrate
