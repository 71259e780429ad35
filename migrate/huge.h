#pragma once
#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <map>

namespace migrate {

struct Collapsed {
  uint64_t bytes = 0;  ///< that lie in huge pages now and did not before
  double ms = 0;
};

/// Gathers the private anonymous memory of running processes (pid in the box → pid on the node) into huge
/// pages of 2 MiB, from outside: what CRIU does with memory in a lazy dump it does for each page, and a huge
/// one counts as one. The processes run on, each stopped only while one such page is copied, less than a
/// millisecond.
///
/// Takes blocks that are there as a whole, or nearly, and that a process shares with no other: so the box
/// needs no more memory afterwards, and 2 MiB more meanwhile. Does nothing for less than 64 MiB, where a
/// limit on the box's memory is near, and where /sys/kernel/mm/transparent_hugepage/enabled is `never`. With
/// `madvise` and `always` there it works alike: the kernel asks only the process (prctl(2)
/// PR_SET_THP_DISABLE, madvise(2) MADV_NOHUGEPAGE), which keeps its will.
///
/// Ends after about `most`, and sooner where the kernel has no huge pages left. Never throws for what the
/// kernel refuses, since the box can be moved all the same; only where the operator interrupts.
/// process_madvise(2), MADV_COLLAPSE: Linux 6.1; PAGEMAP_SCAN: 6.7.
Collapsed collapse(const std::map<pid_t, pid_t>& processes, std::chrono::milliseconds most);

}  // namespace migrate
