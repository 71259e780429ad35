#include "migrate/huge.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <functional>
#include <span>
#include <string>

#include "base/fd.h"
#include "tests/unit/base/page_of_zeros.h"

namespace migrate {
namespace {

using namespace std::chrono_literals;

constexpr size_t kMiB = 1 << 20;
constexpr size_t kBlock = 2 * kMiB;
constexpr size_t kPage = 4096;

/// Memory that begins where a huge page does.
std::span<std::byte> map(size_t size) {
  void* at = ::mmap(nullptr, size + kBlock, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (at == MAP_FAILED) ::_exit(2);
  const auto address = (reinterpret_cast<uintptr_t>(at) + kBlock - 1) / kBlock * kBlock;
  return {reinterpret_cast<std::byte*>(address), size};
}

/// Writes a number of its own into each `step`th page.
void fill(std::span<std::byte> memory, size_t step = 1) {
  for (size_t at = 0; at < memory.size(); at += step * kPage) std::memcpy(&memory[at], &at, sizeof at);
}
bool is_filled(std::span<std::byte> memory) {
  for (size_t at = 0; at < memory.size(); at += kPage)
    if (std::memcmp(&memory[at], &at, sizeof at) != 0) return false;
  return true;
}

/// A process that gets itself memory in small pages, whatever this machine's default is, and lives on.
class Process {
 public:
  /// `prepare` runs in it; `check` does so at the end, and tells whether all is as it was.
  explicit Process(
      const std::function<void()>& prepare, const std::function<bool()>& check = [] { return true; }) {
    base::Pipe ready = base::make_pipe();
    base::Pipe end = base::make_pipe();
    pid_ = ::fork();
    if (pid_ == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      end.write.close();
      ::prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0);
      prepare();
      ::prctl(PR_SET_THP_DISABLE, 0, 0, 0, 0);
      char c = 'r';
      if (::write(ready.write.get(), &c, 1) != 1) ::_exit(3);
      if (::read(end.read.get(), &c, 1) != 0) ::_exit(3);
      ::_exit(check() ? 0 : 1);
    }
    std::byte c{};
    base::read_full(ready.read.get(), {&c, 1});
    end_ = std::move(end.write);
  }
  ~Process() { finish(); }
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  [[nodiscard]] pid_t pid() const { return pid_; }
  /// A line of its smaps_rollup, in bytes.
  [[nodiscard]] size_t memory(const std::string& what) const {
    std::ifstream in("/proc/" + std::to_string(pid_) + "/smaps_rollup");
    for (std::string line; std::getline(in, line);)
      if (line.starts_with(what + ":")) return std::stoul(line.substr(what.size() + 1)) * 1024;
    return 0;
  }
  /// Its exit status.
  int finish() {
    if (pid_ <= 0) return -1;
    end_.close();
    int status = 0;
    ::waitpid(pid_, &status, 0);
    pid_ = 0;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }

 private:
  pid_t pid_ = 0;
  base::Fd end_;
};

bool has_huge_pages() {
  return !base::read_file("/sys/kernel/mm/transparent_hugepage/enabled").contains("[never]");
}

TEST(Collapse, GathersWhatIsThereAndKeepsIt) {
  std::span<std::byte> memory;
  Process process([&] { fill(memory = map(80 * kMiB)); }, [&] { return is_filled(memory); });
  ASSERT_EQ(0U, process.memory("AnonHugePages"));
  const size_t before = process.memory("Rss");
  const Collapsed done = collapse({{1, process.pid()}}, 10s);
  const size_t expected = has_huge_pages() ? 80 * kMiB : 0;
  EXPECT_EQ(expected, done.bytes);
  EXPECT_EQ(expected, process.memory("AnonHugePages"));
  EXPECT_EQ(before, process.memory("Rss"));
  EXPECT_EQ(0U, collapse({{1, process.pid()}}, 10s).bytes);  // nothing is left to do
  EXPECT_EQ(0, process.finish());
}

TEST(Collapse, NotWorthIt) {
  const Process process([] { fill(map(60 * kMiB)); });
  EXPECT_EQ(0U, collapse({{1, process.pid()}}, 10s).bytes);
  EXPECT_EQ(0U, process.memory("AnonHugePages"));
}

TEST(Collapse, NeedsNoMoreMemory) {
  const Process process([] {
    fill(map(40 * kMiB));
    fill(map(200 * kMiB), 2);  // every second page
    if (!base::has_page_of_zeros()) return;
    const auto zeros = map(80 * kMiB);
    for (size_t at = 0; at < zeros.size(); at += kPage)
      if (zeros[at] != std::byte{}) ::_exit(2);
  });
  const size_t before = process.memory("Rss");
  EXPECT_EQ(0U, collapse({{1, process.pid()}}, 10s).bytes);
  EXPECT_EQ(before, process.memory("Rss"));
}

TEST(Collapse, OnlyWhatIsWholeOfAProcess) {
  const Process process([] {
    const auto memory = map(120 * kMiB);
    for (size_t at = 0; at < memory.size(); at += 2 * kBlock) fill(memory.subspan(at, kBlock));
    const auto other = map(kBlock);
    fill(other);
    ::madvise(other.data(), 20 * kPage, MADV_DONTNEED);  // too much is missing
    const auto nearly = map(10 * kBlock);
    fill(nearly);
    ::madvise(nearly.data() + 5 * kBlock, 10 * kPage, MADV_DONTNEED);
  });
  EXPECT_EQ(has_huge_pages() ? 80 * kMiB : 0, collapse({{1, process.pid()}}, 10s).bytes);
}

TEST(Collapse, NotAgainstItsWill) {
  const Process here([] {
    const auto memory = map(80 * kMiB);
    ::madvise(memory.data(), memory.size(), MADV_NOHUGEPAGE);
    fill(memory);
  });
  EXPECT_EQ(0U, collapse({{1, here.pid()}}, 10s).bytes);
  EXPECT_EQ(0U, here.memory("AnonHugePages"));
}

TEST(Collapse, NotWhatTwoProcessesShare) {
  pid_t child = 0;
  const Process process(
      [&] {
        fill(map(80 * kMiB));
        child = ::fork();
        if (child != 0) return;
        ::prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (;;) ::pause();
      },
      [&] { return ::kill(child, SIGKILL) == 0 && ::waitpid(child, nullptr, 0) == child; });
  EXPECT_EQ(0U, collapse({{1, process.pid()}}, 10s).bytes);
  EXPECT_EQ(0U, process.memory("AnonHugePages"));
}

TEST(Collapse, OutOfTime) {
  const Process process([] { fill(map(80 * kMiB)); });
  EXPECT_EQ(0U, collapse({{1, process.pid()}}, 0ms).bytes);
  EXPECT_EQ(0U, process.memory("AnonHugePages"));
}

TEST(Collapse, OneHasEnded) {
  const Process lives([] { fill(map(80 * kMiB)); });
  Process ended([] {});
  const pid_t gone = ended.pid();
  ended.finish();
  EXPECT_EQ(has_huge_pages() ? 80 * kMiB : 0, collapse({{1, gone}, {2, lives.pid()}}, 10s).bytes);
}

}  // namespace
}  // namespace migrate
