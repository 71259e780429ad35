#pragma once
#include <sys/types.h>
#include <unistd.h>

#include <cstdint>
#include <map>
#include <vector>

#include "base/fd.h"
#include "box/lazy_scan.h"
#include "box/memory_map.h"

namespace box {

/// The memory of a frozen box that CRIU is not to look at page by page: of a dump whose memory stays where it
/// is, most of it. CRIU does not see these pages, and its images say of them afterwards what it would have
/// said itself. How: docs/decisions/0015-criu-does-not-look-at-pages.md.
class LazyMemory {
 public:
  /// Without `wanted` CRIU sees everything.
  explicit LazyMemory(bool wanted);
  LazyMemory(const LazyMemory&) = delete;
  LazyMemory& operator=(const LazyMemory&) = delete;
  ~LazyMemory();

  /// For the CRIU that this process, a child of the one that made this, starts next, with our part in it
  /// (CriuPart).
  void use() const;
  /// Before that CRIU dumps. `processes`: pid in the box → pid on this node.
  void choose(const std::map<pid_t, pid_t>& processes);
  /// When CRIU has dumped. Throws where a restore would not bring some page back.
  void write(int images) const;

 private:
  const pid_t owner_ = ::getpid();
  std::map<pid_t, pid_t> in_box_;  ///< pid on this node → pid in the box
  base::Fd memory_;
  size_t size_ = 0;
  LazyScan* shared_ = nullptr;
};

/// What of a frozen process CRIU may leave alone: memory that it would dump lazily in any case. Not much is
/// not worth it, and of what is not certain nothing is taken.
std::vector<AddressRange> lazy_ranges(pid_t process);

/// Adds pages, in order, to the images of the process `pid` (in the box) as lazy ones. Throws when CRIU's
/// restore would not wait for one of them (vma_entry_can_be_lazy() of criu/include/vma.h), and when it has
/// one itself. Those of memory that the kernel may drop (MAP_DROPPABLE) are left out, as CRIU does.
void add_lazy_pages(int images, pid_t pid, const std::vector<AddressRange>& pages);

}  // namespace box
