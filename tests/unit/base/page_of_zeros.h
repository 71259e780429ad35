#pragma once
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>

#include "base/fd.h"

namespace base {

/// Whether memory that was only read is the kernel's one page of zeros. Without it, as in some virtual
/// machines (PVM), it is a page like any other.
inline bool has_page_of_zeros() {
  constexpr size_t kPage = 4096;
  constexpr uint64_t kPresent = 1ULL << 63, kExclusive = 1ULL << 56;  // admin-guide/mm/pagemap.rst
  void* at = ::mmap(nullptr, kPage, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (at == MAP_FAILED) return false;
  (void)*static_cast<volatile char*>(at);
  uint64_t entry = 0;
  const Fd pagemap = open("/proc/self/pagemap", O_RDONLY);
  const auto offset = static_cast<off_t>(reinterpret_cast<uintptr_t>(at) / kPage * sizeof entry);
  const bool read = ::pread(pagemap.get(), &entry, sizeof entry, offset) == sizeof entry;
  ::munmap(at, kPage);
  return read && (entry & kPresent) != 0 && (entry & kExclusive) == 0;
}

}  // namespace base
