#pragma once
#include <linux/fs.h>

#include <cstdint>

namespace box {

/// The path of the shared memory, in the environment of CRIU's process.
inline constexpr const char* kLazyScanVariable = "DROVER_LAZY_SCAN";

/// Memory that we share with our part of CRIU's process (box/preload/lazy_scan.cc): this, behind it
/// room for `run_room` runs, behind that `range_count` ranges in order of process and address.
struct LazyScan {
  struct Range {
    uint64_t process;  ///< pid on this node
    uint64_t begin, end;
  };

  uint64_t range_count = 0;
  uint64_t run_room = 0;
  uint64_t run_count = 0;
  uint64_t loaded = 0;  ///< not 0: CRIU's process has our part in it

  /// As PAGEMAP_SCAN gives them, but with the process in the place of the categories.
  page_region* runs() { return reinterpret_cast<page_region*>(this + 1); }
  Range* ranges() { return reinterpret_cast<Range*>(runs() + run_room); }
};

}  // namespace box
