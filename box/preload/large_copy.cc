// Also our part of CRIU's process. CRIU has an array with 16 bytes for each page of a process's private
// memory, and copies it into its parasite, whatever of it is in use (`__parasite_dump_pages_seized()` of
// criu/mem.c, CRIU 4.2). With the pages that lazy_scan.cc keeps from it, that is the beginning. The rest is
// 4 MiB of zeros for each GiB, for which the kernel has to find memory while the box is frozen: 2 ms, and 15
// where a virtual machine's host has taken back what was free.
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <iterator>

namespace box {
namespace {

constexpr size_t kLarge = 1 << 20;
constexpr uintptr_t kPage = 4096;

/// Whether it lies in one private mapping of no file: there a page that nobody has touched is one of zeros.
bool of_no_file(uintptr_t begin, uintptr_t end) {
  std::FILE* const maps = std::fopen("/proc/self/maps", "re");
  if (!maps) return false;
  bool found = false;
  for (char line[5000]; !found && std::fgets(line, sizeof line, maps);) {
    uintptr_t first = 0, last = 0;
    uint64_t inode = 0;
    char kind = 0;
    if (std::sscanf(line, "%" SCNxPTR "-%" SCNxPTR " %*3c%c %*s %*s %" SCNu64, &first, &last, &kind,
                    &inode) == 4)
      found = first <= begin && end <= last && kind == 'p' && inode == 0;
  }
  std::fclose(maps);
  return found;
}

/// Without touching what nobody has.
void make_zeros(uintptr_t begin, uintptr_t end) {
  const uintptr_t first = (begin + kPage - 1) & -kPage, last = end & -kPage;
  if (first < last && ::madvise(reinterpret_cast<void*>(first), last - first, MADV_REMOVE) == 0) {
    std::memset(reinterpret_cast<void*>(begin), 0, first - begin);
    std::memset(reinterpret_cast<void*>(last), 0, end - last);
  } else {
    std::memset(reinterpret_cast<void*>(begin), 0, end - begin);
  }
}

/// As memcpy(3). False: not all of it is copied.
bool copy_touched(uintptr_t to, uintptr_t from, size_t size) {
  const uintptr_t end = from + size;
  if (!of_no_file(from, end)) return false;
  const int pagemap = ::open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
  if (pagemap < 0) return false;
  uintptr_t at = from;
  for (bool complete = false; !complete;) {
    page_region touched[64];
    pm_scan_arg scan{};
    scan.size = sizeof scan;
    scan.start = at & -kPage;
    scan.end = (end + kPage - 1) & -kPage;
    scan.vec = reinterpret_cast<uintptr_t>(touched);
    scan.vec_len = std::size(touched);
    scan.category_anyof_mask = scan.return_mask = PAGE_IS_PRESENT | PAGE_IS_SWAPPED;
    const long count = ::syscall(SYS_ioctl, pagemap, PAGEMAP_SCAN, &scan);
    if (count < 0 || scan.walk_end <= scan.start) break;
    auto zeros_until = [&](uintptr_t until) {
      if (at >= until) return;
      make_zeros(to + (at - from), to + (until - from));
      at = until;
    };
    for (long i = 0; i < count; ++i) {
      zeros_until(touched[i].start);
      const uintptr_t until = std::min<uintptr_t>(touched[i].end, end);
      std::memmove(reinterpret_cast<void*>(to + (at - from)), reinterpret_cast<void*>(at), until - at);
      at = until;
    }
    zeros_until(std::min<uintptr_t>(scan.walk_end, end));
    complete = at == end;
  }
  ::close(pagemap);
  return at == end;
}

}  // namespace
}  // namespace box

/// In the place of libc's. Of a small one CRIU makes hundreds of thousands.
extern "C" [[gnu::visibility("default")]] void* memcpy(void* to, const void* from, size_t size) noexcept {
  if (size < box::kLarge ||
      !box::copy_touched(reinterpret_cast<uintptr_t>(to), reinterpret_cast<uintptr_t>(from), size))
    std::memmove(to, from, size);
  return to;
}
