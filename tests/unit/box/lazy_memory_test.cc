#include "box/lazy_memory.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <pthread.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <format>
#include <functional>
#include <span>

#include "base/error.h"
#include "base/fd.h"
#include "box/criu_part.h"
#include "tests/unit/base/page_of_zeros.h"

namespace box {
namespace {

constexpr uint64_t kPage = 4096, kMega = 1 << 20;

char* map(uint64_t size) {
  void* at = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  EXPECT_NE(at, MAP_FAILED);
  ::madvise(at, size, MADV_NOHUGEPAGE);
  return static_cast<char*>(at);
}

uint64_t address(const char* at) { return reinterpret_cast<uint64_t>(at); }

// --- what CRIU has from us

/// Our part of CRIU, here in the test.
class Part {
 public:
  explicit Part(const std::vector<LazyScan::Range>& ranges, uint64_t room = 100) {
    size_ = sizeof(LazyScan) + ranges.size() * sizeof ranges[0] + room * sizeof(page_region);
    EXPECT_EQ(::ftruncate(memory_.get(), static_cast<off_t>(size_)), 0);
    shared =
        static_cast<LazyScan*>(::mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_SHARED, memory_.get(), 0));
    shared->range_count = ranges.size();
    shared->run_room = room;
    std::copy(ranges.begin(), ranges.end(), shared->ranges());

    base::write_full(library_.get(), std::as_bytes(criu_part_library()), "the library");
    ::setenv("LD_PRELOAD", "/none", 1);
    ::setenv(kLazyScanVariable, std::format("/proc/self/fd/{}", memory_.get()).c_str(), 1);
    // A name of its own: it is not loaded twice under one.
    opened_ =
        ::dlopen(std::format("/proc/{}/fd/{}", ::getpid(), library_.get()).c_str(), RTLD_NOW | RTLD_LOCAL);
    EXPECT_TRUE(opened_) << ::dlerror();
    ioctl = reinterpret_cast<int (*)(int, unsigned long, ...)>(::dlsym(opened_, "ioctl"));
    EXPECT_TRUE(ioctl);
    memcpy = reinterpret_cast<void* (*)(void*, const void*, size_t)>(::dlsym(opened_, "memcpy"));
    EXPECT_TRUE(memcpy);
  }
  Part(const Part&) = delete;
  Part& operator=(const Part&) = delete;
  ~Part() {
    ::dlclose(opened_);
    ::munmap(shared, size_);
  }

  [[nodiscard]] std::vector<AddressRange> kept() const {
    std::vector<AddressRange> all;
    for (const page_region& run : std::span(shared->runs(), shared->run_count)) {
      EXPECT_EQ(run.categories, static_cast<uint64_t>(::getpid()));
      all.push_back({run.start, run.end});
    }
    return in_order(all);
  }

  LazyScan* shared = nullptr;
  int (*ioctl)(int, unsigned long, ...) = nullptr;
  void* (*memcpy)(void*, const void*, size_t) = nullptr;

 private:
  base::Fd memory_{::memfd_create("shared", MFD_CLOEXEC)}, library_{::memfd_create("library", MFD_CLOEXEC)};
  size_t size_ = 0;
  void* opened_ = nullptr;
};

/// As CRIU asks.
pm_scan_arg question(uint64_t begin, uint64_t end, std::span<page_region> regions) {
  pm_scan_arg scan{};
  scan.size = sizeof scan;
  scan.start = begin;
  scan.end = end;
  scan.vec = reinterpret_cast<uint64_t>(regions.data());
  scan.vec_len = regions.size();
  scan.category_inverted = scan.category_mask = PAGE_IS_PFNZERO | PAGE_IS_FILE;
  scan.category_anyof_mask = PAGE_IS_PRESENT | PAGE_IS_SWAPPED;
  scan.return_mask = PAGE_IS_PRESENT | PAGE_IS_SWAPPED | PAGE_IS_SOFT_DIRTY;
  return scan;
}

/// Asks until the end, as CRIU does.
std::vector<AddressRange> told(const std::function<int(pm_scan_arg&)>& ask, uint64_t begin, uint64_t end,
                               size_t room = 100) {
  std::vector<AddressRange> all;
  std::vector<page_region> regions(room);
  while (begin < end) {
    pm_scan_arg scan = question(begin, end, regions);
    const int count = ask(scan);
    EXPECT_GE(count, 0);
    if (count < 0 || scan.walk_end <= begin) {
      ADD_FAILURE() << "it does not go on at " << begin;
      break;
    }
    for (const auto& region : std::span(regions).first(static_cast<size_t>(count)))
      all.push_back({region.start, region.end});
    begin = scan.walk_end;
  }
  return in_order(all);
}

std::string text(const std::vector<AddressRange>& ranges, uint64_t base) {
  std::string out;
  for (const auto& range : ranges)
    out += std::format("{}-{} ", (range.begin - base) / kPage, (range.end - base) / kPage);
  return out;
}

class LazyScanTest : public testing::Test {
 protected:
  void SetUp() override {
    for (const int page : {0, 1, 5, 9, 10, 11, 12, 20, 21, 22, 29, 40}) at_[page * kPage] = 'x';
    if (base::has_page_of_zeros()) (void)*static_cast<volatile char*>(at_ + 15 * kPage);
  }
  void TearDown() override { ::munmap(at_, kMega); }
  [[nodiscard]] LazyScan::Range pages(uint64_t first, uint64_t last) const {
    return {static_cast<uint64_t>(::getpid()), begin_ + first * kPage, begin_ + last * kPage};
  }
  std::vector<AddressRange> ask(const Part& part, size_t room = 100) {
    return told([&](pm_scan_arg& scan) { return part.ioctl(pagemap_.get(), PAGEMAP_SCAN, &scan); }, begin_,
                begin_ + 64 * kPage, room);
  }

  base::Fd pagemap_ = base::open(std::format("/proc/{}/pagemap", ::getpid()), O_RDONLY);
  char* at_ = map(kMega);
  uint64_t begin_ = address(at_);
};

TEST_F(LazyScanTest, WhatIsOursIsKeptAndNotTold) {
  const Part part({{1, begin_, begin_ + kMega}, pages(10, 21), pages(29, 30), pages(50, 60)});
  EXPECT_EQ(part.shared->loaded, 1u);
  for (const size_t room : {100, 4, 1}) {
    part.shared->run_count = 0;
    EXPECT_EQ(text(ask(part, room), begin_), "0-2 5-6 9-10 21-23 40-41 ") << room;
    EXPECT_EQ(text(part.kept(), begin_), "10-13 20-21 29-30 ") << room;
  }
  // What it starts is started as ever.
  EXPECT_EQ(::getenv("LD_PRELOAD"), nullptr);
  EXPECT_EQ(::getenv(kLazyScanVariable), nullptr);
}

TEST_F(LazyScanTest, WhatDoesNotFitInIsTold) {
  const Part part({pages(0, 64)}, 3);
  EXPECT_EQ(text(ask(part), begin_), "20-23 29-30 40-41 ");
  EXPECT_EQ(text(part.kept(), begin_), "0-2 5-6 9-13 ");
}

TEST_F(LazyScanTest, WhatIsThereAndIsNoPageIsTold) {
  constexpr int kGuardInstall = 102;  // MADV_GUARD_INSTALL of Linux 6.13: as if it was swapped out
  for (const int page : {3, 9, 10, 20, 22})
    if (::madvise(at_ + page * kPage, kPage, kGuardInstall) != 0) GTEST_SKIP() << "no guard pages here";
  const Part part({pages(0, 21)});
  for (const size_t room : {100, 3, 2, 1}) {
    part.shared->run_count = 0;
    EXPECT_EQ(text(ask(part, room), begin_), "3-4 9-11 20-23 29-30 40-41 ") << room;
    EXPECT_EQ(text(part.kept(), begin_), "0-2 5-6 11-13 ") << room;
  }
}

TEST_F(LazyScanTest, EverythingElseIsTheKernels) {
  const Part part({pages(0, 64)});
  std::vector<page_region> regions(100);
  pm_scan_arg scan = question(begin_, begin_ + 64 * kPage, regions);
  scan.category_inverted = scan.category_mask = 0;
  EXPECT_EQ(part.ioctl(pagemap_.get(), PAGEMAP_SCAN, &scan), base::has_page_of_zeros() ? 7 : 6);
  const base::Fd other = base::open("/proc/self/status", O_RDONLY);
  scan = question(begin_, begin_ + kPage, regions);
  EXPECT_EQ(part.ioctl(other.get(), PAGEMAP_SCAN, &scan), -1);
  int waiting = -1;
  const base::Pipe pipe = base::make_pipe();
  base::write_full(pipe.write.get(), "four", "a pipe");
  EXPECT_EQ(part.ioctl(pipe.read.get(), FIONREAD, &waiting), 0);
  EXPECT_EQ(waiting, 4);
  EXPECT_EQ(part.kept().size(), 0u);
}

// --- what it copies

constexpr uint64_t kCopied = 8 * kMega + 24;

/// Of zeros that nobody has touched, but for some.
char* hardly_touched() {
  char* const at = map(kCopied + kMega);
  for (const uint64_t byte : {0ul, 5000ul, 3 * kMega + 100, kCopied - 1}) at[byte] = 'x';
  return at;
}

/// Whether they are the same, and what is around the copy as it was.
void expect_copy(const char* all, uint64_t offset, const char* from) {
  EXPECT_EQ(std::memcmp(all + offset, from, kCopied), 0) << offset;
  for (const uint64_t byte : {offset - 1, offset + kCopied}) EXPECT_EQ(all[byte], 'z') << byte;
}

TEST(LargeCopy, IsOfWhatWasTouched) {
  const Part part({});
  for (const uint64_t offset : {kPage, kPage + 16, 2 * kPage - 1}) {
    for (const uint64_t into : {0, 16, 4000}) {
      const base::Fd file(::memfd_create("copy", MFD_CLOEXEC));
      ASSERT_EQ(::ftruncate(file.get(), 9 * kMega), 0);
      auto* const to =
          static_cast<char*>(::mmap(nullptr, 9 * kMega, PROT_READ | PROT_WRITE, MAP_SHARED, file.get(), 0));
      ASSERT_NE(to, MAP_FAILED);
      char* const from = hardly_touched();
      std::memset(to, 'z', 20 * kPage);  // what was there before
      std::memset(to + kCopied, 'z', 20 * kPage);
      to[4 * kMega] = 'z';
      EXPECT_EQ(part.memcpy(to + offset, from + into, kCopied), to + offset);
      struct stat about{};
      ASSERT_EQ(::fstat(file.get(), &about), 0);
      EXPECT_LT(about.st_blocks * 512, 64 * kPage);
      expect_copy(to, offset, from + into);
      ::munmap(to, 9 * kMega);
      ::munmap(from, kCopied + kMega);
    }
  }
}

TEST(LargeCopy, IntoPrivateMemory) {
  const Part part({});
  char *const to = map(9 * kMega), *const from = hardly_touched();
  std::memset(to, 'z', 9 * kMega);
  part.memcpy(to + 100, from, kCopied);
  expect_copy(to, 100, from);
  ::munmap(to, 9 * kMega);
  ::munmap(from, kCopied + kMega);
}

TEST(LargeCopy, OfAFileThatNobodyHasReadIsWhole) {
  const Part part({});
  const base::Fd file(::memfd_create("source", MFD_CLOEXEC));
  base::write_full(file.get(), std::string(kCopied, 'f'), "a file");
  for (const int kind : {MAP_PRIVATE, MAP_SHARED}) {
    auto* const from = static_cast<char*>(::mmap(nullptr, kCopied, PROT_READ, kind, file.get(), 0));
    ASSERT_NE(from, MAP_FAILED);
    std::string to(kCopied, '-');
    part.memcpy(to.data(), from, kCopied);
    EXPECT_EQ(to.find_first_not_of('f'), std::string::npos);
    ::munmap(from, kCopied);
  }
}

TEST(LargeCopy, OverTheEndOfAMapping) {
  const Part part({});
  char* const from = map(kCopied + kMega);
  from[kCopied - 1] = from[0] = 'x';
  ASSERT_EQ(::mprotect(from + 4 * kMega, kMega, PROT_READ), 0);  // three mappings
  std::string to(kCopied, '-');
  part.memcpy(to.data(), from, kCopied);
  EXPECT_EQ(std::memcmp(to.data(), from, kCopied), 0);
  ::munmap(from, kCopied + kMega);
}

TEST(LargeCopy, SmallOnes) {
  const Part part({});
  std::string to(5, '-');
  EXPECT_EQ(part.memcpy(to.data() + 1, "abc", 3), to.data() + 1);
  EXPECT_EQ(to, "-abc-");
}

// --- what is ours

/// A process that does `what`, then tells, and waits; or has become another program.
class Process {
 public:
  explicit Process(const std::function<void()>& what) {
    base::Pipe ready = base::make_pipe();
    pid = ::fork();
    if (pid == 0) {
      what();
      (void)!::write(ready.write.get(), "y", 1);
      for (;;) ::pause();
    }
    ready.write.close();
    char c = 0;
    EXPECT_GE(::read(ready.read.get(), &c, 1), 0);
    for (int i = 0; i < 500 && base::read_file(std::format("/proc/{}/syscall", pid)).starts_with("running");
         ++i)
      ::usleep(10000);
  }
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;
  ~Process() {
    ::kill(pid, SIGKILL);
    ::waitpid(pid, nullptr, 0);
  }
  pid_t pid;
};

/// Pages of [at, at + size) that are in a range.
uint64_t covered(const std::vector<AddressRange>& ranges, const char* at, uint64_t size) {
  std::vector<AddressRange> rest;
  subtract({address(at), address(at) + size}, ranges, rest);
  uint64_t left = size;
  for (const auto& range : rest) left -= range.size();
  return left / kPage;
}

TEST(LazyRanges, LargePrivateMemoryButForStackPointers) {
  constexpr uint64_t kSize = 16 * kMega;
  char *const large = map(kSize), *const stack = map(2 * kMega);
  void* const shared = ::mmap(nullptr, 4 * kMega, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  const Process process([&] {
    std::memset(large, 1, kSize);
    std::memset(shared, 1, 4 * kMega);
    pthread_attr_t about;
    pthread_attr_init(&about);
    pthread_attr_setstack(&about, stack, 2 * kMega);
    pthread_t thread;
    pthread_create(
        &thread, &about,
        [](void*) -> void* {
          for (;;) ::pause();
        },
        nullptr);
    ::usleep(200000);
  });
  const auto ranges = lazy_ranges(process.pid);
  EXPECT_EQ(covered(ranges, large, kSize), kSize / kPage);
  EXPECT_EQ(covered(ranges, static_cast<char*>(shared), 4 * kMega), 0u);
  EXPECT_EQ(covered(ranges, stack, 2 * kMega), 2 * kMega / kPage - 1);
  ::munmap(large, kSize);
  ::munmap(stack, 2 * kMega);
  ::munmap(shared, 4 * kMega);
}

TEST(LazyRanges, LittleIsNotWorthItAndLockedMemoryIsNotLazy) {
  constexpr uint64_t kSize = 16 * kMega;
  char* const at = map(kSize);
  {
    const Process process([&] {
      std::memset(at, 1, kSize);
      if (::syscall(SYS_mlock, at + 4 * kMega, kPage) != 0)
        ::_exit(1);  // sanitizers have an mlock of their own
    });
    EXPECT_EQ(lazy_ranges(process.pid).size(), 0u);
  }
  {
    const Process process([&] { ::execlp("sleep", "sleep", "100", nullptr); });
    EXPECT_EQ(lazy_ranges(process.pid).size(), 0u);
  }
  ::munmap(at, kSize);
  EXPECT_EQ(lazy_ranges(0x7fffffff).size(), 0u);  // there is none
}

}  // namespace
}  // namespace box
