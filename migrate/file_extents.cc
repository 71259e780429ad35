#include "migrate/file_extents.h"

#include <linux/fiemap.h>
#include <linux/fs.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <utility>

#include "migrate/tree_blocks.h"

namespace migrate {
namespace {

constexpr size_t kAtOnce = 512;
// 24 bytes each, twice for each file; asking the kernel takes about as long as reading 100 MB.
constexpr size_t kMostExtents = 1 << 18;
// All others mean that the content is not, or not alone, in those bytes of the disk.
constexpr uint32_t kHarmless = FIEMAP_EXTENT_LAST | FIEMAP_EXTENT_MERGED;

/// What is in both, in order.
std::vector<Extent> common(const std::vector<Extent>& before, const std::vector<Extent>& now) {
  std::vector<Extent> out;
  for (auto a = before.begin(), b = now.begin(); a != before.end() && b != now.end();) {
    const uint64_t begin = std::max(a->blocks.begin, b->blocks.begin);
    const uint64_t end = std::min(a->blocks.end, b->blocks.end);
    const auto place = [begin](const Extent& extent) {
      return extent.place + (begin - extent.blocks.begin) * kBlockSize;
    };
    if (begin < end && place(*a) == place(*b)) out.push_back({{begin, end}, place(*a)});
    (a->blocks.end < b->blocks.end ? a : b)++;
  }
  return out;
}

}  // namespace

void merge(BlockRanges& ranges) {
  std::ranges::sort(ranges, {}, &BlockRange::begin);
  BlockRanges merged;
  for (const BlockRange& range : ranges) {
    if (!merged.empty() && range.begin <= merged.back().end)
      merged.back().end = std::max(merged.back().end, range.end);
    else
      merged.push_back(range);
  }
  ranges = std::move(merged);
}

std::optional<std::vector<Extent>> extents_of(int fd) {
  std::vector<Extent> out;
  std::vector<std::byte> buffer(sizeof(fiemap) + kAtOnce * sizeof(fiemap_extent));
  auto* request = reinterpret_cast<fiemap*>(buffer.data());
  const auto* extents = reinterpret_cast<const fiemap_extent*>(buffer.data() + sizeof(fiemap));
  for (uint64_t from = 0;;) {
    std::memset(request, 0, sizeof *request);
    request->fm_start = from;
    request->fm_length = FIEMAP_MAX_OFFSET - from;
    request->fm_extent_count = kAtOnce;
    if (::ioctl(fd, FS_IOC_FIEMAP, request) != 0) {
      if (errno == EINTR) continue;
      return std::nullopt;
    }
    for (size_t i = 0; i < request->fm_mapped_extents; ++i) {
      const fiemap_extent& found = extents[i];
      from = found.fe_logical + found.fe_length;
      if ((found.fe_flags & ~kHarmless) != 0) continue;
      // Smaller blocks of the file system that fill none of ours are left out.
      const uint64_t begin = (found.fe_logical + kBlockSize - 1) / kBlockSize, end = from / kBlockSize;
      if (begin < end)
        out.push_back({{begin, end}, found.fe_physical + begin * kBlockSize - found.fe_logical});
      if (out.size() > kMostExtents) return std::nullopt;
    }
    const size_t count = request->fm_mapped_extents;
    if (count == 0 || (extents[count - 1].fe_flags & FIEMAP_EXTENT_LAST) != 0) return out;
  }
}

BlockRanges doubtful(const FileLook& before, const FileLook& now, BlockRanges written) {
  const uint64_t last = std::max<uint64_t>(std::min(before.blocks, now.blocks), 1) - 1;
  BlockRanges out = std::move(written);
  uint64_t at = 0;
  for (const Extent& extent : common(before.extents, now.extents)) {
    if (extent.blocks.begin > at) out.push_back({at, extent.blocks.begin});
    at = std::max(at, extent.blocks.end);
  }
  out.push_back({std::min(at, last), now.blocks});
  merge(out);
  for (BlockRange& range : out) range.end = std::min<uint64_t>(range.end, now.blocks);
  std::erase_if(out, [](const BlockRange& range) { return range.begin >= range.end; });
  return out;
}

}  // namespace migrate
