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

/// What may differ of a file that lay at `before` and lies at `now`: all of its blocks but those which lie
/// where they were and were not `written` since. `sent` blocks were compared before, and it has `size` of
/// them now. The last one counts as written: more or less of it may belong to the file.
BlockRanges doubtful(const std::vector<Extent>& before, const std::vector<Extent>& now,
                     const BlockRanges& written, size_t sent, size_t size);

}  // namespace migrate
