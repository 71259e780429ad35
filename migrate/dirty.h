#pragma once
#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <map>
#include <set>
#include <utility>
#include <vector>

#include "base/fd.h"
#include "migrate/disk_reads.h"

namespace migrate {

/// Which memory of a running box was written since it was asked for last: the private anonymous memory of
/// each process, but for its stack. The kernel keeps account in the page tables (userfaultfd(2),
/// write-protection with WP_ASYNC; PAGEMAP_SCAN; Linux 6.7): the box goes on through each first write of a
/// page without being stopped by anyone.
///
/// What it is good for: whoever reads the runs right after each take(), freezes the box, and calls take()
/// once more, has all memory that is there: unless it is in the last call's runs, what was read of it last is
/// right. Pages that are gone do not matter. For one thread.
class DirtyMemory {
 public:
  using Clock = std::chrono::steady_clock;
  struct Run {
    uint32_t pid;         ///< in the box
    uint64_t begin, end;  ///< page aligned
    [[nodiscard]] uint64_t bytes() const { return end - begin; }
  };
  struct Written {
    std::vector<Run> runs;  ///< by pid and address
    /// These have a new address space, or are other processes of the same pid: nothing that was said of them
    /// before holds any more. Throw away what was kept of them, then take these runs.
    std::vector<uint32_t> renewed;
    /// These cannot be tracked, this time: nothing that was said of them before holds any more. Throw away
    /// what was kept of them; they have no runs.
    std::vector<uint32_t> unknown;
    [[nodiscard]] uint64_t bytes() const;
    /// What is to be sent when nothing was sent between this call and a later one.
    void add(Written later);
  };

  DirtyMemory();
  DirtyMemory(const DirtyMemory&) = delete;
  DirtyMemory& operator=(const DirtyMemory&) = delete;
  ~DirtyMemory();

  /// `processes`: pid in the box → pid on this node (box::processes_of). The first time all memory that is
  /// there, or in swap; then what was written since the call before. A process that is new is taken whole. A
  /// box that is frozen stays as it is; processes that are new then are unknown.
  Written take(const std::map<pid_t, pid_t>& processes);

  /// Lets go of all of it: the processes are as they were before. The destructor does as well.
  void let_go();

  /// Whether this kernel and this machine have what it takes.
  static bool supported();

 private:
  struct Space {
    pid_t process;
    base::Fd fault;                     ///< the userfaultfd of its memory
    std::vector<AddressRange> tracked;  ///< as of the last call: what is written there, the kernel tells
    DiskReads disk;
  };
  enum class Outcome { kTaken, kOtherMemory, kGone };
  using Ranges = std::vector<AddressRange>;

  std::pair<Outcome, bool> take_process(uint32_t pid, pid_t process, Clock::time_point until, Ranges& ranges);
  static Outcome take_space(Space& space, Ranges& ranges);

  std::map<uint32_t, Space> spaces_;
  std::set<uint32_t> told_;  ///< of whom there were runs
};

}  // namespace migrate
