#pragma once
#include <cstdint>
#include <string>

#include "base/child.h"

namespace bootstrap {

/// What there is to do for the data partition to reach to the end of its disk.
struct Growth {
  std::string disk = {}, partition = {};  ///< "/dev/vda", "/dev/vda5"
  unsigned number = 0;
  std::string file_system = {};                       ///< "ext4", "xfs"
  uint64_t disk_sectors = 0, start = 0, sectors = 0;  ///< of 512 bytes, as sysfs has them

  /// More than what the backup of the GPT and alignment take.
  [[nodiscard]] bool partition_grows() const;
};

/// Of the file system mounted at `state_dir`, from sysfs. Throws where it is on no partition drover-data, or
/// where that is not the last of its disk.
Growth growth_of(const std::string& state_dir, const std::string& sys = "/sys");

/// Both partition tables of a disk with so many sectors are at its ends and say the same (GPT: UEFI 2.10,
/// 5.3). They do not where power failed while one of them was written: then Linux goes by the other one.
bool tables_agree(const std::string& disk, uint64_t sectors);

/// Grows partition and file system, and mends a partition table that differs from the other one. Whatever is
/// done already is left alone; stopped at any point, it goes on the next time. A sentence about what was
/// done.
std::string grow(base::Runner& runner, const std::string& state_dir);

}  // namespace bootstrap
