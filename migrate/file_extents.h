#pragma once
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

namespace migrate {

/// Blocks of a file (kBlockSize), by number: [begin, end).
struct BlockRange {
  uint64_t begin = 0, end = 0;
  bool operator==(const BlockRange&) const = default;
};
/// In order, and none touches the next one.
using BlockRanges = std::vector<BlockRange>;

/// Sorts, and makes one of those that touch or overlap.
void merge(BlockRanges& ranges);

/// Blocks whose content lies on the disk, as it was written there.
struct Extent {
  BlockRange blocks;
  uint64_t place = 0;  ///< bytes from the beginning of the disk
  bool operator==(const Extent&) const = default;
};

/// Of the whole file, in order; neither holes, nor what was only allocated, nor what waits in memory for a
/// place (FS_IOC_FIEMAP, Documentation/filesystems/fiemap.rst). nullopt: there are too many, or the file
/// system cannot tell.
std::optional<std::vector<Extent>> extents_of(int fd);

/// A file as somebody was about to read it.
struct FileLook {
  uint64_t number = 0;  ///< by which a BlockWatch knows the moment; 0: it knows none
  size_t blocks = 0;    ///< that it had
  std::vector<Extent> extents;
};

/// What may differ between two looks at a file: all that it has now but blocks which lie where they lay and
/// were not `written` since. The last one counts as written: more or less of it may belong to the file.
BlockRanges doubtful(const FileLook& before, const FileLook& now, BlockRanges written);

}  // namespace migrate
