#include "migrate/dirty.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/userfaultfd.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstring>
#include <filesystem>
#include <format>
#include <fstream>
#include <set>
#include <thread>

#include "base/fd.h"
#include "box/cgroup.h"
#include "tests/unit/migrate/boxed.h"

namespace migrate {
namespace {

using namespace std::chrono_literals;

constexpr size_t kPage = 4096, kPages = 1024;
constexpr uint32_t kPid = 7;  // of the process, in its box

/// Memory at the same address here and in what is forked: it is the same in each process until written.
char* map(size_t pages, int flags = 0) {
  auto* memory = static_cast<char*>(
      ::mmap(nullptr, pages * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0));
  return memory == MAP_FAILED ? nullptr : memory;
}

std::vector<std::array<uint64_t, 3>> runs_in(const DirtyMemory::Written& written) {
  std::vector<std::array<uint64_t, 3>> out;
  for (const auto& run : written.runs) out.push_back({run.pid, run.begin, run.end});
  return out;
}

TEST(DirtyMemoryWritten, OfTwoCallsInOne) {
  DirtyMemory::Written written{
      .runs = {{1, 0, 2}, {1, 4, 6}, {1, 9, 10}, {2, 0, 5}, {3, 0, 5}}, .renewed = {1}, .unknown = {4}};
  written.add(
      {.runs = {{1, 1, 3}, {1, 3, 4}, {1, 7, 8}, {2, 7, 8}, {5, 0, 1}}, .renewed = {2}, .unknown = {3}});
  const std::vector<std::array<uint64_t, 3>> both = {{1, 0, 6}, {1, 7, 8}, {1, 9, 10}, {2, 7, 8}, {5, 0, 1}};
  EXPECT_EQ(both, runs_in(written));
  EXPECT_EQ((std::vector<uint32_t>{1, 2}), written.renewed);
  EXPECT_EQ((std::vector<uint32_t>{4, 3}), written.unknown);
}

class DirtyMemoryTest : public testing::Test {
 protected:
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "needs root: it traces processes";
    ASSERT_TRUE(DirtyMemory::supported());
  }
  /// The pages of [memory, memory + pages) that the runs have, as numbers.
  static std::set<size_t> pages_of(const DirtyMemory::Written& written, const char* memory, size_t pages) {
    const auto begin = reinterpret_cast<uint64_t>(memory);
    std::set<size_t> found;
    for (const auto& run : written.runs)
      for (uint64_t at = run.begin; at < run.end; at += kPage)
        if (run.pid == kPid && at >= begin && at < begin + pages * kPage) {
          EXPECT_TRUE(found.insert((at - begin) / kPage).second) << "told twice";
        }
    return found;
  }
  static std::set<size_t> all(size_t from, size_t to) {
    std::set<size_t> pages;
    for (size_t page = from; page < to; ++page) pages.insert(page);
    return pages;
  }
  std::set<size_t> take(const Boxed& box) {
    last_ = dirty_.take({{kPid, box.pid()}});
    return pages_of(last_, memory_, kPages);
  }
  void write(size_t page) { memory_[page * kPage] = 'w'; }

  DirtyMemory dirty_;
  DirtyMemory::Written last_;
  char* memory_ = map(kPages);
};

TEST_F(DirtyMemoryTest, WhatIsWrittenIsTold) {
  Boxed box([&](Boxed& self) {
    for (size_t page = 0; page < 100; ++page) write(page);
    self.step();
    write(3);
    write(50);
    write(500);  // new
    self.step();
    self.step();
    (void)!::read(-1, memory_, 1);
    const int zero = ::open("/dev/zero", O_RDONLY);
    if (::read(zero, memory_ + 7 * kPage, 1) != 1) return 1;  // by the kernel
    self.step();
    return 0;
  });
  ASSERT_TRUE(box.wait_step());
  EXPECT_EQ(all(0, 100), take(box));
  EXPECT_GE(last_.bytes(), 100 * kPage);
  EXPECT_TRUE(last_.renewed.empty());
  EXPECT_TRUE(last_.unknown.empty());
  ASSERT_TRUE(box.next());
  EXPECT_EQ((std::set<size_t>{3, 50, 500}), take(box));
  EXPECT_TRUE(last_.renewed.empty());
  ASSERT_TRUE(box.next());
  EXPECT_EQ(std::set<size_t>{}, take(box));
  ASSERT_TRUE(box.next());
  EXPECT_EQ(std::set<size_t>{7}, take(box));
  box.go();
  EXPECT_EQ(0, box.wait());
}

TEST_F(DirtyMemoryTest, MemoryThatIsMappedAgain) {
  Boxed box([&](Boxed& self) {
    for (size_t page = 0; page < kPages; ++page) write(page);
    self.step();
    ::munmap(memory_ + 100 * kPage, 100 * kPage);
    if (::mmap(memory_ + 100 * kPage, 100 * kPage, PROT_READ | PROT_WRITE,
               MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
      return 1;
    for (size_t page = 120; page < 140; ++page) write(page);
    self.step();
    write(130);
    write(150);
    self.step();
    return 0;
  });
  ASSERT_TRUE(box.wait_step());
  EXPECT_EQ(all(0, kPages), take(box));
  ASSERT_TRUE(box.next());
  EXPECT_EQ(all(120, 140), take(box));
  ASSERT_TRUE(box.next());
  EXPECT_EQ((std::set<size_t>{130, 150}), take(box));
}

TEST_F(DirtyMemoryTest, MemoryThatMoves) {
  Boxed box([&](Boxed& self) {
    for (size_t page = 0; page < kPages; ++page) write(page);
    self.step();
    if (::mremap(memory_, 100 * kPage, 100 * kPage, MREMAP_MAYMOVE | MREMAP_FIXED, memory_ + 300 * kPage) ==
        MAP_FAILED)
      return 1;
    write(310);
    self.step();
    write(320);
    write(310);
    self.step();
    return 0;
  });
  ASSERT_TRUE(box.wait_step());
  EXPECT_EQ(all(0, kPages), take(box));
  ASSERT_TRUE(box.next());
  EXPECT_EQ(all(300, 400), take(box));
  ASSERT_TRUE(box.next());
  EXPECT_EQ((std::set<size_t>{310, 320}), take(box));
}

TEST_F(DirtyMemoryTest, MemoryThatIsGivenBack) {
  Boxed box([&](Boxed& self) {
    for (size_t page = 0; page < kPages; ++page) write(page);
    self.step();
    ::madvise(memory_, 100 * kPage, MADV_DONTNEED);
    write(10);
    self.step();
    return 0;
  });
  ASSERT_TRUE(box.wait_step());
  EXPECT_EQ(all(0, kPages), take(box));
  ASSERT_TRUE(box.next());
  EXPECT_EQ(std::set<size_t>{10}, take(box));
}

TEST_F(DirtyMemoryTest, MemoryThatMayNotBeWritten) {
  Boxed box([&](Boxed& self) {
    for (size_t page = 0; page < kPages; ++page) write(page);
    ::mprotect(memory_, 100 * kPage, PROT_NONE);
    self.step();
    ::mprotect(memory_, 100 * kPage, PROT_READ | PROT_WRITE);
    write(10);
    ::mprotect(memory_, 100 * kPage, PROT_READ);
    self.step();
    return 0;
  });
  ASSERT_TRUE(box.wait_step());
  EXPECT_EQ(all(0, kPages), take(box));
  ASSERT_TRUE(box.next());
  EXPECT_EQ(std::set<size_t>{10}, take(box));
}

/// How much of [memory, +pages) stands in huge pages.
size_t huge_bytes(pid_t pid, const char* memory) {
  std::ifstream in(std::format("/proc/{}/smaps", pid));
  bool here = false;
  size_t sum = 0;
  for (std::string line; std::getline(in, line);) {
    unsigned long long begin = 0, end = 0, kib = 0;
    if (std::sscanf(line.c_str(), "%llx-%llx ", &begin, &end) == 2)
      here = reinterpret_cast<uint64_t>(memory) >= begin && reinterpret_cast<uint64_t>(memory) < end;
    else if (here && std::sscanf(line.c_str(), "AnonHugePages: %llu", &kib) == 1)
      sum += kib << 10;
  }
  return sum;
}

TEST_F(DirtyMemoryTest, HugePages) {
  constexpr size_t kHuge = 2 << 20;
  auto* memory = reinterpret_cast<char*>((reinterpret_cast<uint64_t>(map(5 * kHuge / kPage)) + kHuge - 1) &
                                         ~(kHuge - 1));
  ASSERT_EQ(0, ::madvise(memory, 4 * kHuge, MADV_HUGEPAGE));
  Boxed box([&](Boxed& self) {
    std::memset(memory, 'h', 4 * kHuge);
    self.step();
    memory[kHuge + 5 * kPage] = 'w';
    self.step();
    return 0;
  });
  ASSERT_TRUE(box.wait_step());
  if (huge_bytes(box.pid(), memory) == 0) GTEST_SKIP() << "needs transparent huge pages";
  auto written = dirty_.take({{kPid, box.pid()}});
  EXPECT_EQ(all(0, 4 * kHuge / kPage), pages_of(written, memory, 4 * kHuge / kPage));
  EXPECT_EQ(4 * kHuge, huge_bytes(box.pid(), memory));
  ASSERT_TRUE(box.next());
  written = dirty_.take({{kPid, box.pid()}});
  EXPECT_EQ(std::set<size_t>{512 + 5}, pages_of(written, memory, 4 * kHuge / kPage));
  EXPECT_EQ(3 * kHuge, huge_bytes(box.pid(), memory));
}

TEST_F(DirtyMemoryTest, AChildIsTakenWhole) {
  auto* child =
      static_cast<pid_t*>(::mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  Boxed box([&](Boxed& self) {
    for (size_t page = 0; page < 100; ++page) write(page);
    self.step();
    const pid_t forked = ::fork();
    if (forked == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      for (;;) ::pause();
    }
    *child = forked;
    self.step();
    return 0;
  });
  ASSERT_TRUE(box.wait_step());
  EXPECT_EQ(all(0, 100), take(box));
  ASSERT_TRUE(box.next());
  ASSERT_LT(0, *child);
  auto written = dirty_.take({{8, box.pid()}, {kPid, *child}});
  EXPECT_EQ(all(0, 100), pages_of(written, memory_, kPages));
  EXPECT_EQ((std::vector<uint32_t>{kPid}), written.renewed) << "another process has that pid now";
  // The same pid as the one that was there before it.
  written = dirty_.take({{kPid, box.pid()}});
  EXPECT_EQ(all(0, 100), pages_of(written, memory_, kPages));
  EXPECT_EQ((std::vector<uint32_t>{kPid}), written.renewed);
  ::munmap(child, kPage);
}

TEST_F(DirtyMemoryTest, AnotherProgram) {
  Boxed box([&](Boxed& self) {
    for (size_t page = 0; page < 100; ++page) write(page);
    self.step();
    ::execl("/bin/sleep", "sleep", "100", nullptr);
    return 1;
  });
  ASSERT_TRUE(box.wait_step());
  EXPECT_EQ(all(0, 100), take(box));
  box.go();
  while (!base::read_file(std::format("/proc/{}/comm", box.pid())).starts_with("sleep"))
    std::this_thread::sleep_for(1ms);
  ASSERT_TRUE(box.comes_to('S'));
  EXPECT_EQ(std::set<size_t>{}, take(box));
  EXPECT_EQ((std::vector<uint32_t>{kPid}), last_.renewed);
  EXPECT_LT(0U, last_.bytes());
  take(box);
  EXPECT_TRUE(last_.renewed.empty());
  EXPECT_EQ(0U, last_.bytes());
}

TEST_F(DirtyMemoryTest, ProcessesThatCannotBeTracked) {
  Boxed box([&](Boxed& self) {
    write(1);
    self.step();
    return 0;
  });
  ASSERT_TRUE(box.wait_step());
  box.signal(SIGSTOP);
  ASSERT_TRUE(box.comes_to('T'));
  take(box);
  EXPECT_EQ((std::vector<uint32_t>{kPid}), last_.unknown);
  EXPECT_TRUE(last_.runs.empty());
  box.signal(SIGCONT);
  ASSERT_TRUE(box.comes_to('S'));
  EXPECT_EQ(std::set<size_t>{1}, take(box));
  EXPECT_TRUE(last_.unknown.empty());
  EXPECT_TRUE(last_.renewed.empty()) << "nothing was said of it that had to be thrown away";
  // Once tracked it may stop.
  box.signal(SIGSTOP);
  ASSERT_TRUE(box.comes_to('T'));
  take(box);
  EXPECT_TRUE(last_.unknown.empty());
}

/// A control group of one test.
class Group {
 public:
  Group() { group_.create(); }
  Group(const Group&) = delete;
  Group& operator=(const Group&) = delete;
  ~Group() { group_.kill_and_remove(); }
  const box::Cgroup* operator->() const { return &group_; }

 private:
  box::Cgroup group_{std::format("{}/drover-unit-{}", box::cgroup_mount(), ::getpid())};
};

TEST_F(DirtyMemoryTest, AFrozenBox) {
  const Group group;
  auto* child =
      static_cast<pid_t*>(::mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  Boxed box([&](Boxed& self) {
    for (size_t page = 0; page < 100; ++page) write(page);
    self.step();
    const pid_t forked = ::fork();
    if (forked == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      for (;;) ::pause();
    }
    *child = forked;
    write(5);
    self.step();
    return 0;
  });
  ASSERT_TRUE(box.wait_step());
  group->join(box.pid());
  EXPECT_EQ(all(0, 100), take(box));
  ASSERT_TRUE(box.next());
  group->freeze();
  const auto begin = std::chrono::steady_clock::now();
  const auto written = dirty_.take({{kPid, box.pid()}, {8, *child}});
  EXPECT_GT(5s, std::chrono::steady_clock::now() - begin) << "what is frozen comes to no system call";
  EXPECT_TRUE(group->frozen());
  EXPECT_EQ(std::set<size_t>{5}, pages_of(written, memory_, kPages));
  EXPECT_EQ((std::vector<uint32_t>{8}), written.unknown);
  group->thaw();
  box.go();
  EXPECT_EQ(0, box.wait());
}

/// Between vfork(2) and exec there are two processes with one memory.
TEST_F(DirtyMemoryTest, AProcessWithItsParentsMemory) {
  auto* child = static_cast<std::atomic<pid_t>*>(
      ::mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  Boxed box([&](Boxed&) {
    for (size_t page = 0; page < 100; ++page) write(page);
    std::array<char, 1 << 16> stack{};
    const auto body = [](void* pid) {
      *static_cast<std::atomic<pid_t>*>(pid) = static_cast<pid_t>(::syscall(SYS_getpid));
      for (;;) ::pause();
      return 0;
    };
    ::clone(body, stack.data() + stack.size(), CLONE_VM | SIGCHLD, child);
    for (;;) ::pause();
    return 0;
  });
  while (*child == 0) std::this_thread::sleep_for(1ms);
  const auto written = dirty_.take({{kPid, box.pid()}, {8, *child}});
  EXPECT_EQ(all(0, 100), pages_of(written, memory_, kPages));
  EXPECT_EQ((std::vector<uint32_t>{8}), written.unknown);
  const base::Fd pidfd(static_cast<int>(::syscall(SYS_pidfd_open, child->load(), 0)));
  ::syscall(SYS_pidfd_send_signal, pidfd.get(), SIGKILL, nullptr, 0);
}

TEST_F(DirtyMemoryTest, ProcessesThatAreNotThere) {
  Boxed box([](Boxed&) { return 0; });
  ASSERT_TRUE(box.comes_to('Z'));
  take(box);
  EXPECT_TRUE(last_.unknown.empty() && last_.runs.empty());
  const pid_t pid = box.pid();
  box.wait();
  last_ = dirty_.take({{kPid, pid}});
  EXPECT_TRUE(last_.unknown.empty() && last_.runs.empty());
}

TEST_F(DirtyMemoryTest, AUserfaultfdOfItsOwn) {
  Boxed box([&](Boxed& self) {
    for (size_t page = 0; page < 100; ++page) write(page);
    const auto fault = static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY));
    uffdio_api api{UFFD_API, 0, 0};
    uffdio_register range{{reinterpret_cast<uint64_t>(memory_), 50 * kPage}, UFFDIO_REGISTER_MODE_MISSING, 0};
    if (::ioctl(fault, UFFDIO_API, &api) != 0 || ::ioctl(fault, UFFDIO_REGISTER, &range) != 0) return 1;
    self.step();
    self.step();
    write(70);
    self.step();
    return 0;
  });
  ASSERT_TRUE(box.wait_step());
  EXPECT_EQ(all(0, 100), take(box));
  ASSERT_TRUE(box.next());
  EXPECT_EQ(all(0, 50), take(box));
  ASSERT_TRUE(box.next());
  std::set<size_t> expected = all(0, 50);
  expected.insert(70);
  EXPECT_EQ(expected, take(box));
}

/// The lines of /proc/PID/smaps that say what of its memory is registered with a userfaultfd.
size_t registered(pid_t pid) {
  std::ifstream in(std::format("/proc/{}/smaps", pid));
  size_t count = 0;
  for (std::string line; std::getline(in, line);)
    if (line.starts_with("VmFlags:") && line.contains(" uw")) ++count;
  return count;
}

TEST_F(DirtyMemoryTest, LettingGoLeavesNothingBehind) {
  Boxed box([&](Boxed& self) {
    for (size_t page = 0; page < 100; ++page) write(page);
    self.step();
    return 0;
  });
  ASSERT_TRUE(box.wait_step());
  auto files = [&] {
    std::set<std::string> names;
    for (const auto& file : std::filesystem::directory_iterator(std::format("/proc/{}/fd", box.pid())))
      names.insert(file.path().filename().string() + " " +
                   std::filesystem::read_symlink(file.path()).string());
    return names;
  };
  const auto before = files();
  EXPECT_EQ(0U, registered(box.pid()));
  take(box);
  EXPECT_EQ(before, files());
  EXPECT_LT(0U, registered(box.pid()));
  dirty_.let_go();
  EXPECT_EQ(0U, registered(box.pid()));
  EXPECT_EQ(before, files());
  // And again from the beginning.
  EXPECT_EQ(all(0, 100), take(box));
  EXPECT_TRUE(last_.renewed.empty());
}

}  // namespace
}  // namespace migrate
