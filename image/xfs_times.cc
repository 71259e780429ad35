#include "image/xfs_times.h"

#include <fcntl.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/hash.h"
#include "image/sparse.h"

namespace image {
namespace {

// Places of fields are those of Linux 6.12's fs/xfs/libxfs/xfs_format.h, for version 5 of the file system.
// All numbers are big-endian, but for checksums.
constexpr uint64_t kSuperBytes = 512;
constexpr size_t kBlockSize = 4, kGroupBlocks = 84, kGroups = 88, kSectorBytes = 102,
                 kInodeBytes = 104;                    // xfs_dsb
constexpr size_t kAgiRoot = 20, kAgiLevel = 24;        // xfs_agi
constexpr size_t kRecordCount = 6, kFirstRecord = 56;  // xfs_btree_block, with short pointers
constexpr size_t kRecordBytes = 16, kHoles = 4;        // xfs_inobt_rec, sparse
constexpr uint64_t kChunk = 64;                        // XFS_INODES_PER_CHUNK
constexpr size_t kGeneration = 92, kSum = 100,
                 kTimes[] = {32, 40, 48, 144};  // xfs_dinode: access to creation
constexpr size_t kLeastInodeBytes = 256;
constexpr uint64_t kBigTimeZero = uint64_t{1} << 31;  // seconds: XFS_BIGTIME_EPOCH_OFFSET

uint64_t get(std::string_view bytes, size_t at, size_t size) {
  uint64_t value = 0;
  for (size_t k = 0; k < size; k++) value = value << 8 | static_cast<unsigned char>(bytes[at + k]);
  return value;
}

void put(std::string& bytes, size_t at, uint64_t value, size_t size) {
  for (size_t k = 0; k < size; k++) bytes[at + k] = static_cast<char>(value >> (8 * (size - 1 - k)));
}

class Xfs {
 public:
  explicit Xfs(const std::string& path) : path_(path), file_(base::open(path, O_RDWR)) {
    std::string super = read(0, kSuperBytes, "XFSB");
    block_ = get(super, kBlockSize, 4);
    group_ = get(super, kGroupBlocks, 4) * block_;
    groups_ = get(super, kGroups, 4);
    sector_ = get(super, kSectorBytes, 2);
    inode_ = get(super, kInodeBytes, 2);
    if (inode_ < kLeastInodeBytes || block_ < kSuperBytes || sector_ < kSuperBytes)
      throw base::error("{} has the superblock of no XFS", path);
  }

  void settle(uint64_t nanoseconds) {
    for (uint64_t group = 0; group < groups_; group++) {
      uint64_t start = group * group_;
      std::string agi = read(start + 2 * sector_, kSuperBytes, "XAGI");
      if (get(agi, kAgiLevel, 4) != 1)
        throw base::error("{} has more files than mkfs.xfs puts into a new one", path_);
      std::string leaf = read(start + get(agi, kAgiRoot, 4) * block_, block_, "IAB3");
      for (uint64_t k = 0; k < get(leaf, kRecordCount, 2); k++) {
        size_t record = kFirstRecord + k * kRecordBytes;
        if (record + kRecordBytes > block_ || get(leaf, record + kHoles, 2) != 0)
          throw base::error("{} has a chunk of inodes that is not whole", path_);
        for (uint64_t inode = 0; inode < kChunk; inode++)
          settle_inode(start + (get(leaf, record, 4) + inode) * inode_, nanoseconds);
      }
    }
  }

 private:
  std::string read(uint64_t at, uint64_t size, std::string_view magic) {
    std::string bytes(size, '\0');
    ssize_t got = ::pread(file_.get(), bytes.data(), size, static_cast<off_t>(at));
    if (got < 0) throw base::sys_error("cannot read {}", path_);
    if (static_cast<uint64_t>(got) != size || !bytes.starts_with(magic))
      throw base::error("{} is no XFS of the kind that is made here: no {} at byte {}", path_, magic, at);
    return bytes;
  }

  void settle_inode(uint64_t at, uint64_t nanoseconds) {
    std::string inode = read(at, inode_, "IN");
    for (size_t time : kTimes) put(inode, time, nanoseconds, 8);
    put(inode, kGeneration, 0, 4);
    put(inode, kSum, 0, 4);
    uint32_t sum = base::crc32c(inode);
    put(inode, kSum, __builtin_bswap32(sum), 4);
    write_at(path_, at, inode);
  }

  std::string path_;
  base::Fd file_;
  uint64_t block_ = 0, group_ = 0, groups_ = 0, sector_ = 0, inode_ = 0;
};

}  // namespace

void settle_xfs_inodes(const std::string& file, int64_t clock) {
  Xfs(file).settle((static_cast<uint64_t>(clock) + kBigTimeZero) * 1'000'000'000);
}

}  // namespace image
