#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/mount.h"
#include "box/lazy_memory.h"
#include "tests/unit/box/criu_images.h"

namespace box {
namespace {

constexpr uint64_t kPage = 4096, kAt = 0x7f0000000000;
constexpr uint64_t kPrivate = MAP_PRIVATE | MAP_ANONYMOUS, kMayDrop = 0x08 | MAP_ANONYMOUS;
constexpr uint64_t kAnonymous = 1 << 0 | 1 << 9, kHeap = kAnonymous | 1 << 5, kFile = 1 << 0 | 1 << 6,
                   kVdso = kAnonymous | 1 << 3, kVvar = kAnonymous | 1 << 12, kShadow = kAnonymous | 1 << 15,
                   kGuard = 1 << 16;

AddressRange pages(uint64_t first, uint64_t last) { return {kAt + first * kPage, kAt + last * kPage}; }

std::string vma(AddressRange range, uint64_t flags, uint64_t status) {
  return bytes(14, number(1, range.begin) + number(2, range.end) + number(3, 0) + number(4, 0) +
                       number(5, 3) + number(6, flags) + number(7, status) + number(8, 1));
}
std::string entry(AddressRange range, uint64_t flags) {
  const uint64_t count = range.size() / kPage;
  return record(number(1, range.begin) + number(2, count) + number(4, flags) + number(5, count));
}
std::string lazy(AddressRange range) { return entry(range, 2); }
std::string kept(AddressRange range) { return entry(range, 4); }

const std::string kHead = kMagic + record(number(1, 1));

struct Images {
  explicit Images(const std::string& mappings, const std::string& entries = "") {
    base::write_file(dir.path() + "/mm-7.img",
                     kMagic + record(number(1, 0x400000) + mappings + number(15, 1)));
    base::write_file(dir.path() + "/pagemap-7.img", kHead + entries);
  }
  [[nodiscard]] std::string add(const std::vector<AddressRange>& ranges) const {
    try {
      add_lazy_pages(base::open(dir.path(), O_RDONLY | O_DIRECTORY).get(), 7, ranges);
    } catch (const base::Error& error) {
      return error.message();
    }
    return base::read_file(dir.path() + "/pagemap-7.img");
  }
  base::TempDir dir = base::TempDir::make("/tmp", "images-");
};

TEST(LazyImages, PagesBecomeEntriesInTheirPlaces) {
  const Images images(vma(pages(0, 10), kPrivate, kHeap) + vma(pages(10, 30), kPrivate, kAnonymous) +
                          vma(pages(40, 0x200000), kPrivate, kAnonymous),
                      kept(pages(3, 4)) + lazy(pages(20, 21)) + kept(pages(22, 30)));
  // From one mapping into the next, as CRIU writes it too.
  EXPECT_EQ(images.add({pages(1, 3), pages(8, 12), pages(21, 22), pages(40, 0x100000)}),
            kHead + lazy(pages(1, 3)) + kept(pages(3, 4)) + lazy(pages(8, 12)) + lazy(pages(20, 21)) +
                lazy(pages(21, 22)) + kept(pages(22, 30)) + lazy(pages(40, 0x100000)));
}

TEST(LazyImages, OnlyWhatARestoreWaitsFor) {
  const std::pair<uint64_t, uint64_t> others[] = {{kPrivate | MAP_LOCKED, kAnonymous},
                                                  {kPrivate | MAP_HUGETLB, kAnonymous},
                                                  {MAP_SHARED | MAP_ANONYMOUS, kAnonymous},
                                                  {MAP_PRIVATE, kFile},
                                                  {MAP_PRIVATE, kAnonymous},
                                                  {kPrivate, kVdso},
                                                  {kPrivate, kVvar},
                                                  {kPrivate, kShadow},
                                                  {kPrivate, kGuard},
                                                  {kPrivate, kAnonymous | 1 << 20},
                                                  {kPrivate, 1 << 9}};
  for (const auto& [flags, status] : others) {
    const Images images(vma(pages(0, 10), kPrivate, kAnonymous) + vma(pages(10, 20), flags, status));
    EXPECT_EQ(images.add({pages(5, 11)}),
              "memory of process 7 at 0x7f000000a000 would not come back from CRIU's images")
        << flags << ' ' << status;
    EXPECT_EQ(base::read_file(images.dir.path() + "/pagemap-7.img"), kHead);
  }
  const Images hole(vma(pages(0, 10), kPrivate, kAnonymous) + vma(pages(12, 20), kPrivate, kAnonymous));
  EXPECT_TRUE(hole.add({pages(5, 15)}).contains("at 0x7f000000a000 would not come back"));
}

TEST(LazyImages, WhatTheKernelMayDropIsLeftOut) {
  const Images images(vma(pages(0, 10), kPrivate, kAnonymous) + vma(pages(10, 12), kMayDrop, kAnonymous) +
                      vma(pages(12, 20), kPrivate, kAnonymous));
  EXPECT_EQ(images.add({pages(8, 14)}), kHead + lazy(pages(8, 10)) + lazy(pages(12, 14)));
}

TEST(LazyImages, APageThatCriuHasItselfIsRefused) {
  for (const auto& theirs : {pages(3, 6), pages(5, 6), pages(6, 9), pages(0, 20)}) {
    const Images images(vma(pages(0, 20), kPrivate, kAnonymous), lazy(theirs));
    EXPECT_TRUE(images.add({pages(5, 8)}).contains("CRIU has lazy memory of process 7 at 0x7f0"));
  }
}

TEST(LazyImages, WhatIsCutOffIsRefused) {
  const std::string whole = kHead + kept(pages(3, 4));
  for (size_t size = 0; size < whole.size(); ++size) {
    const Images images(vma(pages(0, 20), kPrivate, kAnonymous));
    base::write_file(images.dir.path() + "/pagemap-7.img", whole.substr(0, size));
    const bool refused = images.add({pages(5, 8)}).contains("not as CRIU 4.2");
    EXPECT_EQ(refused, size != kHead.size()) << size;
  }
}

}  // namespace
}  // namespace box
