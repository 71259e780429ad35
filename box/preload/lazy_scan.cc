// Our part of CRIU's process, in a dump whose memory stays where it is. CRIU would ask for each range which
// pages are there, take each one into a pipe, and write down that it is somewhere else: 0.1 µs for each page
// and more, in the freeze. So it is not told of those in the ranges that we have chosen. They are put down
// here as it would have been told of them, and become part of its images afterwards (LazyMemory::write).
//
// The dynamic loader puts this in front of CRIU's libraries (ld.so(8), LD_PRELOAD). It stands on libc alone.
#include "box/lazy_scan.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>

namespace box {
namespace {

LazyScan* g_shared = nullptr;

long scan_pages(int pagemap, pm_scan_arg& scan) { return ::syscall(SYS_ioctl, pagemap, PAGEMAP_SCAN, &scan); }

/// What pmc_fill() of criu/pagemap-cache.c asks in CRIU 4.2: what is there, and neither the kernel's page of
/// zeros nor a file's. Whoever asks anything else is answered by the kernel.
bool asks_for_pages_to_dump(const pm_scan_arg& scan) {
  constexpr uint64_t kNot = PAGE_IS_PFNZERO | PAGE_IS_FILE, kHere = PAGE_IS_PRESENT | PAGE_IS_SWAPPED;
  return scan.size == sizeof scan && scan.flags == 0 && scan.max_pages == 0 &&
         scan.category_inverted == kNot && scan.category_mask == kNot && scan.category_anyof_mask == kHere &&
         (scan.return_mask & kHere) == kHere;
}

/// Of an open /proc/PID/pagemap; 0: it is none.
uint64_t process_of(int pagemap) {
  char link[40], path[64];
  std::snprintf(link, sizeof link, "/proc/self/fd/%d", pagemap);
  const ssize_t length = ::readlink(link, path, sizeof path - 1);
  unsigned long process = 0;
  int end = 0;
  if (length <= 0) return 0;
  path[length] = '\0';
  return std::sscanf(path, "/proc/%lu/pagemap%n", &process, &end) == 1 && end == length ? process : 0;
}

/// The first of ours that ends behind `address`; nullptr: none.
const LazyScan::Range* range_at(uint64_t process, uint64_t address) {
  const auto *const first = g_shared->ranges(), *const last = first + g_shared->range_count;
  const auto* found = std::partition_point(first, last, [&](const LazyScan::Range& range) {
    return range.process < process || (range.process == process && range.end <= address);
  });
  return found != last && found->process == process ? found : nullptr;
}

/// PAGEMAP_SCAN, as if no page was there in our ranges. What is there and is no page, or not in memory, is
/// CRIU's all the same: it tries to read it before the box is given away.
class Scan {
 public:
  Scan(int pagemap, uint64_t process, pm_scan_arg& scan)
      : pagemap_(pagemap), process_(process), scan_(scan), at_(scan.start) {}

  long run() {
    while (at_ < scan_.end && !full_) {
      const LazyScan::Range* range = range_at(process_, at_);
      const bool ours = range && range->begin <= at_ && g_shared->run_count < g_shared->run_room;
      const uint64_t until = !range ? scan_.end : range->begin <= at_ ? range->end : range->begin;
      if (!(ours ? keep(std::min<uint64_t>(until, scan_.end)) : tell(std::min<uint64_t>(until, scan_.end))))
        return -1;
    }
    scan_.walk_end = at_;  // CRIU asks again from there on
    return static_cast<long>(told_);
  }

 private:
  /// Of [at_, until); where it ended is in at_. Less than 0: errno says why.
  long ask(pm_scan_arg part, uint64_t until, page_region* regions, uint64_t room) {
    part.start = at_;
    part.end = until;
    part.walk_end = 0;
    part.vec = reinterpret_cast<uint64_t>(regions);
    part.vec_len = room;
    const long found = scan_pages(pagemap_, part);
    if (found >= 0 && part.walk_end <= at_) {
      errno = EIO;
      return -1;
    }
    if (found >= 0) at_ = part.walk_end;
    return found;
  }

  bool tell(uint64_t until) {
    full_ = told_ == scan_.vec_len;
    if (full_) return true;
    const long found = ask(scan_, until, theirs_ + told_, scan_.vec_len - told_);
    if (found > 0) told_ += static_cast<uint64_t>(found);
    return found >= 0;
  }

  bool keep(uint64_t until) {
    page_region* const found = g_shared->runs() + g_shared->run_count;
    // Our ranges are of no file, so that no page of them is a file's. Where nobody asks for that, the kernel
    // need not look at each page: 1 GB of small ones takes it 1.5 ms and not 16 (Linux 6.18).
    pm_scan_arg scan = scan_;
    scan.category_mask &= ~uint64_t{PAGE_IS_FILE};
    scan.category_inverted &= ~uint64_t{PAGE_IS_FILE};
    scan.return_mask &= ~uint64_t{PAGE_IS_FILE};
    const long count = ask(scan, until, found, g_shared->run_room - g_shared->run_count);
    for (long i = 0; i < count; ++i) {
      const page_region region = found[i];
      if ((region.categories & ~uint64_t{PAGE_IS_SOFT_DIRTY}) == PAGE_IS_PRESENT) {
        g_shared->runs()[g_shared->run_count++] = {region.start, region.end, process_};
      } else if (told_ < scan_.vec_len) {
        theirs_[told_++] = region;
      } else {
        full_ = true;
        at_ = region.start;
        break;
      }
    }
    return count >= 0;
  }

  const int pagemap_;
  const uint64_t process_;
  pm_scan_arg& scan_;
  page_region* const theirs_ = reinterpret_cast<page_region*>(scan_.vec);
  uint64_t told_ = 0, at_;
  bool full_ = false;
};

[[gnu::constructor]] void begin() {
  // What CRIU starts is no business of ours, and may run where this file is not to be found.
  const char* const variable = ::getenv(kLazyScanVariable);
  const int fd = variable ? ::open(variable, O_RDWR | O_CLOEXEC) : -1;
  ::unsetenv("LD_PRELOAD");
  ::unsetenv(kLazyScanVariable);
  struct stat about{};
  if (fd >= 0 && ::fstat(fd, &about) == 0) {
    void* memory =
        ::mmap(nullptr, static_cast<size_t>(about.st_size), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (memory != MAP_FAILED) g_shared = static_cast<LazyScan*>(memory);
  }
  if (fd >= 0) ::close(fd);
  if (g_shared) g_shared->loaded = 1;
}

}  // namespace
}  // namespace box

/// In the place of libc's.
extern "C" [[gnu::visibility("default")]] int ioctl(int fd, unsigned long request, ...) noexcept {
  va_list rest;
  va_start(rest, request);
  void* const argument = va_arg(rest, void*);
  va_end(rest);
  if (request == PAGEMAP_SCAN && box::g_shared)
    if (auto& scan = *static_cast<pm_scan_arg*>(argument); box::asks_for_pages_to_dump(scan))
      if (const uint64_t process = box::process_of(fd); process != 0)
        return static_cast<int>(box::Scan(fd, process, scan).run());
  return static_cast<int>(::syscall(SYS_ioctl, fd, request, argument));
}
