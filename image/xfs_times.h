#pragma once
#include <cstdint>
#include <string>

namespace image {

/// Gives every inode of an XFS that mkfs.xfs has just made the same times, `clock` (seconds since 1970), and
/// the same generation: mkfs.xfs (6.13) writes the times of now and random generations, and has no option
/// against it.
void settle_xfs_inodes(const std::string& file, int64_t clock);

}  // namespace image
