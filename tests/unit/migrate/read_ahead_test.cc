#include "migrate/read_ahead.h"

#include <sys/mman.h>

#include <algorithm>
#include <chrono>

#include "migrate/mapped.h"
#include "tests/unit/migrate/tree_tools.h"

namespace migrate {
namespace {

using namespace std::chrono_literals;

constexpr size_t kSize = 1 << 20, kPages = kSize / 4096;

void* map_file(const std::string& path) {
  const base::Fd file = base::open(path, O_RDONLY);
  void* const at = ::mmap(nullptr, kSize, PROT_READ, MAP_PRIVATE, file.get(), 0);
  if (at == MAP_FAILED) throw base::sys_error("mmap");
  return at;
}

/// How much of a file of kSize is in memory, in pages.
size_t cached(const std::string& path) {
  void* const at = map_file(path);
  std::vector<unsigned char> pages(kPages);
  if (::mincore(at, kSize, pages.data()) != 0) throw base::sys_error("mincore");
  ::munmap(at, kSize);
  return static_cast<size_t>(std::count_if(pages.begin(), pages.end(), [](auto page) { return page & 1; }));
}

/// Two directories stand for layers, of which to() is the top one.
class ReadAheads : public TreeTest {
 protected:
  /// On the disk, and not in memory.
  static std::string make(const std::string& path) {
    base::write_file(path, std::string(kSize, 'x'));
    const base::Fd file = base::open(path, O_RDWR);
    if (::fsync(file.get()) != 0 || ::posix_fadvise(file.get(), 0, 0, POSIX_FADV_DONTNEED) != 0)
      throw base::sys_error("fsync");
    EXPECT_EQ(0, cached(path));
    return path;
  }
  static void expect_cached(const std::string& path) {
    for (const auto end = std::chrono::steady_clock::now() + 20s;
         cached(path) < kPages && std::chrono::steady_clock::now() < end;)
      ::usleep(1000);
    EXPECT_EQ(kPages, cached(path));
  }
};

TEST_F(ReadAheads, ReadsFilesOfTheLayerThatHasThem) {
  base::make_directories(from("usr/lib"));
  const auto only_below = make(from("usr/lib/below")), covered = make(from("both")), above = make(to("both"));
  const ReadAhead read({to(), from()}, {"nowhere", "both", "usr/lib/below"});
  expect_cached(only_below);
  EXPECT_EQ(kPages, cached(above));
  EXPECT_EQ(0, cached(covered));
}

TEST_F(ReadAheads, NoPathLeadsOutAndNothingHolds) {
  const auto last = make(to("last")), outside = make(from("outside"));
  ASSERT_EQ(0, ::symlink(outside.c_str(), to("link").c_str()));
  ASSERT_EQ(0, ::mkfifo(to("fifo").c_str(), 0600));
  base::make_directories(to("directory"));
  const ReadAhead read({to()}, {"link", "../from/outside", outside, "fifo", "directory", "", ".", "last"});
  expect_cached(last);
  EXPECT_EQ(0, cached(outside));
}

TEST_F(ReadAheads, LayersThatAreNotThereAreNoFailure) { const ReadAhead read({to("gone")}, {"file"}); }

TEST_F(ReadAheads, MappedFilesAreNamedOnce) {
  const auto plain = make(to("plain")), other = make(to("gr\xc3\xbcn")), quoted = make(to("\"quoted\""));
  void* const maps[] = {map_file(plain), map_file(plain), map_file(other), map_file(quoted)};
  const auto files = mapped_files({::getpid(), 1 << 30});
  for (void* at : maps) ::munmap(at, kSize);
  EXPECT_EQ(1, std::ranges::count(files, plain.substr(1)));
  EXPECT_EQ(0, std::ranges::count(files, other.substr(1)));  // JSON takes no such bytes
  EXPECT_EQ(0, std::ranges::count(files, quoted.substr(1)));
}

}  // namespace
}  // namespace migrate
