#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/aio_abi.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <format>
#include <fstream>
#include <map>
#include <random>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "base/fd.h"
#include "base/mount.h"
#include "migrate/dirty.h"
#include "tests/unit/migrate/boxed.h"

namespace migrate {
namespace {

using namespace std::chrono_literals;

constexpr size_t kPage = 4096, kPages = 1024;
constexpr uint32_t kPid = 7;  // of the process, in its box

/// Memory at the same address here and in what is forked: it is the same in each process until written.
char* map(size_t pages) {
  auto* memory = static_cast<char*>(
      ::mmap(nullptr, pages * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  return memory == MAP_FAILED ? nullptr : memory;
}

class DirtyMemoryRandomTest : public testing::Test {
 protected:
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "needs root: it traces processes";
  }
};

/// What somebody keeps who does as dirty.h says.
class Keeper {
 public:
  void take(const DirtyMemory::Written& written, const std::map<pid_t, pid_t>& processes) {
    for (const auto& pids : {written.renewed, written.unknown})
      for (uint32_t pid : pids) kept_.erase(pid);
    for (const auto& run : written.runs)
      for (uint64_t at = run.begin; at < run.end; at += kPage) {
        const std::string page = read(processes.at(static_cast<pid_t>(run.pid)), at);
        if (!page.empty()) kept_[run.pid][at] = page;
      }
  }
  /// Compares with what there is, of memory that counts and is present. Returns the number of pages.
  size_t check(uint32_t pid, pid_t process) {
    size_t count = 0;
    const base::Fd pagemap = base::open(std::format("/proc/{}/pagemap", process), O_RDONLY);
    std::ifstream maps(std::format("/proc/{}/maps", process));
    for (std::string line; std::getline(maps, line);) {
      unsigned long long begin = 0, end = 0, inode = 0;
      char permissions[8] = "", name[64] = "";
      std::sscanf(line.c_str(), "%llx-%llx %7s %*s %*s %llu %63s", &begin, &end, permissions, &inode, name);
      if (permissions[3] != 'p' || inode != 0 || (name[0] == '[' && name != std::string_view("[heap]")))
        continue;
      for (uint64_t at = begin; at < end; at += kPage) {
        uint64_t entry = 0;
        if (::pread(pagemap.get(), &entry, 8, static_cast<off_t>(at / kPage * 8)) != 8 || entry >> 62 == 0)
          continue;
        ++count;
        const std::string page = read(process, at);
        EXPECT_TRUE(!page.empty() && kept_[pid].contains(at) && kept_[pid][at] == page)
            << std::format("{:#x} of {}", at, line);
        if (testing::Test::HasFailure()) return count;
      }
    }
    return count;
  }

 private:
  /// Empty: nothing is there.
  std::string read(pid_t process, uint64_t at) {
    auto& memory = memory_[process];
    if (!memory) memory = base::open(std::format("/proc/{}/mem", process), O_RDONLY);
    std::string page(kPage, '\0');
    const ssize_t got = ::pread(memory.get(), page.data(), kPage, static_cast<off_t>(at));
    return got == static_cast<ssize_t>(kPage) ? page : "";
  }
  std::map<pid_t, base::Fd> memory_;
  std::map<uint32_t, std::map<uint64_t, std::string>> kept_;
};

/// Does to [memory, +pages) all that can be done to memory. Never returns.
[[noreturn]] void live_at_random(char* memory, size_t pages, unsigned seed) {
  std::mt19937 random(seed);
  auto below = [&](size_t n) { return static_cast<size_t>(random()) % n; };
  for (;;) {
    const size_t length = 1 + below(64), at = below(pages - length), to = below(pages - length);
    char* here = memory + at * kPage;
    char* there = memory + to * kPage;
    constexpr int kFixed = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;
    switch (below(12)) {
      case 0:
        ::munmap(here, length * kPage);
        break;
      case 1:
        ::mmap(here, length * kPage, PROT_READ | PROT_WRITE, kFixed, -1, 0);
        break;
      case 2:
        if (at + length <= to || to + length <= at)
          ::mremap(here, length * kPage, length * kPage, MREMAP_MAYMOVE | MREMAP_FIXED, there);
        break;
      case 3:
        ::madvise(here, length * kPage, MADV_DONTNEED);
        break;
      case 4:
        ::mprotect(here, length * kPage, PROT_READ);
        break;
      case 5:
        ::mremap(here, kPage, length * kPage, 0);
        break;
      case 6:
        ::madvise(memory, pages * kPage, MADV_COLLAPSE);
        break;
      default:
        for (size_t page = 0; page < length; ++page) {
          // The kernel writes, so that what may not be written is no end of it.
          ::syscall(SYS_getrandom, here + page * kPage + below(1024) * 4, 4, 0);
        }
    }
  }
}

TEST_F(DirtyMemoryRandomTest, WhateverAProcessDoesToItsMemory) {
  char* memory = map(kPages);
  for (unsigned seed = 1; seed <= 12; ++seed) {
    SCOPED_TRACE(std::format("seed {}", seed));
    Boxed box([&](Boxed&) {
      live_at_random(memory, kPages, seed);
      return 0;
    });
    DirtyMemory dirty;
    Keeper keeper;
    const std::map<pid_t, pid_t> processes = {{kPid, box.pid()}};
    for (int round = 0; round < 8; ++round) {
      std::this_thread::sleep_for(2ms);
      keeper.take(dirty.take(processes), processes);
    }
    box.signal(SIGSTOP);
    ASSERT_TRUE(box.comes_to('T')) << base::read_file(std::format("/proc/{}/status", box.pid()));
    const auto last = dirty.take(processes);
    EXPECT_TRUE(last.unknown.empty());
    keeper.take(last, processes);
    EXPECT_LT(10U, keeper.check(kPid, box.pid()));
    if (HasFailure()) return;
  }
}

constexpr size_t kBlock = 64 << 10;

/// Reads random blocks of `file` into random blocks of memory, 32 at a time, and never looks at them: only
/// the disk writes that memory. Never returns.
[[noreturn]] void read_at_random(int file, size_t blocks, char* memory, size_t places, unsigned seed) {
  std::mt19937 random(seed);
  constexpr size_t kAtOnce = 32;
  aio_context_t context = 0;
  if (::syscall(SYS_io_setup, kAtOnce, &context) != 0) ::_exit(1);
  std::array<iocb, kAtOnce> requests{};
  auto submit = [&](size_t slot) {
    iocb& request = requests[slot];
    request = {};
    request.aio_data = slot;
    request.aio_lio_opcode = IOCB_CMD_PREAD;
    request.aio_fildes = static_cast<uint32_t>(file);
    // Each slot has its own places.
    const size_t place = static_cast<size_t>(random()) % (places / kAtOnce) * kAtOnce + slot;
    request.aio_buf = reinterpret_cast<uint64_t>(memory + place * kBlock);
    request.aio_nbytes = kBlock;
    request.aio_offset = static_cast<int64_t>(static_cast<size_t>(random()) % blocks * kBlock);
    iocb* list = &request;
    if (::syscall(SYS_io_submit, context, 1, &list) != 1) ::_exit(2);
  };
  for (size_t slot = 0; slot < kAtOnce; ++slot) submit(slot);
  for (;;) {
    io_event event{};
    if (::syscall(SYS_io_getevents, context, 1, 1, &event, nullptr) != 1) continue;
    if (event.res != static_cast<int64_t>(kBlock)) ::_exit(3);
    submit(event.data);
  }
}

TEST_F(DirtyMemoryRandomTest, WhatTheDiskWrites) {
  constexpr size_t kBlocks = 512, kPlaces = 1024;
  char* memory = map(kPlaces * kBlock / kPage);
  const auto directory = base::TempDir::make("/var/tmp", "drover-unit-");
  const std::string path = directory.path() + "/blocks";
  {
    const base::Fd file = base::open(path, O_CREAT | O_WRONLY);
    std::mt19937_64 random(1);
    std::vector<uint64_t> block(kBlock / 8);
    for (size_t i = 0; i < kBlocks; ++i) {
      for (auto& word : block) word = random();
      base::write_full(file.get(), std::as_bytes(std::span(block)), path);
    }
    ::fsync(file.get());
  }
  const base::Fd file = base::open(path, O_RDONLY | O_DIRECT);
  for (unsigned seed = 1; seed <= 5; ++seed) {
    SCOPED_TRACE(std::format("seed {}", seed));
    Boxed box([&](Boxed&) {
      read_at_random(file.get(), kBlocks, memory, kPlaces, seed);
      return 0;
    });
    DirtyMemory dirty;
    Keeper keeper;
    const std::map<pid_t, pid_t> processes = {{kPid, box.pid()}};
    for (int round = 0; round < 5; ++round) {
      std::this_thread::sleep_for(10ms);
      keeper.take(dirty.take(processes), processes);
    }
    box.signal(SIGSTOP);
    ASSERT_TRUE(box.comes_to('T'));
    std::this_thread::sleep_for(100ms);  // what is on its way arrives
    keeper.take(dirty.take(processes), processes);
    EXPECT_LT(100U, keeper.check(kPid, box.pid()));
    if (HasFailure()) return;
  }
}

}  // namespace
}  // namespace migrate
