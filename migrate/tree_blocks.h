#pragma once
#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

#include "migrate/file_extents.h"

namespace migrate {

/// What the sender compares and sends of a large file: a page, and what databases write.
inline constexpr size_t kBlockSize = 4096;
constexpr size_t blocks_of(uint64_t bytes) { return (bytes + kBlockSize - 1) / kBlockSize; }
/// Smaller files are sent whole.
inline constexpr uint64_t kLeastPatch = 1 << 20;

/// 128 bits; both 0: a hole.
struct BlockSum {
  uint64_t low = 0, high = 0;
  bool operator==(const BlockSum&) const = default;
};

/// A sum of each block of a file as it was sent.
class FileBlocks {
 public:
  explicit FileBlocks(size_t blocks) : sums_(blocks) {}
  [[nodiscard]] size_t size() const { return sums_.size(); }
  /// Also behind the end, where a longer file would have one.
  [[nodiscard]] bool is_hole(size_t block) const { return block >= size() || sums_[block] == BlockSum{}; }
  /// This block and that one of `other` have data, and the same.
  [[nodiscard]] bool same(size_t block, const FileBlocks& other, size_t of_other) const {
    return !is_hole(block) && !other.is_hole(of_other) && sums_[block] == other.sums_[of_other];
  }
  /// From `first` on they are the first `count` of `sums`.
  void set(size_t first, const FileBlocks& sums, size_t count);
  /// These blocks are as they were sent before.
  void keep(const FileBlocks& sent, size_t begin, size_t end);

  FileLook look;  ///< when it was read

 private:
  friend class SentContents;
  std::vector<BlockSum> sums_;
};

/// What the other side has of large files, by inode number: sums that the sender took of what it sent. So no
/// signature has to come back, and a file that changed is read once.
///
/// The sum is NH (Black et al., UMAC, 1999; RFC 4418, 5.2.2) on 64-bit words with a random key of this
/// process: two given blocks that differ have the same one with a probability of 2⁻⁶⁴, whoever chose them.
class SentContents {
 public:
  /// For a file of `size` bytes, all holes. nullopt: together they would take more memory than they may (256
  /// MiB, for 64 GiB of files); the file is then sent whole whenever it has changed.
  [[nodiscard]] std::optional<FileBlocks> room_for(uint64_t size) const;
  /// Notes what is being sent. `offset` is that of a block.
  void note(FileBlocks& blocks, uint64_t offset, std::span<const std::byte> bytes);

  [[nodiscard]] const FileBlocks* find(ino_t ino) const;
  /// From `commit()` on, that is what the other side has of the file; nullopt: nothing that could be patched.
  /// Without a `commit()` the next `begin()` forgets it.
  void set(ino_t ino, std::optional<FileBlocks> blocks);
  void begin();
  void commit();

 private:
  BlockSum sum(std::span<const std::byte> bytes);

  std::vector<uint64_t> key_;
  std::unordered_map<ino_t, FileBlocks> files_;
  std::unordered_map<ino_t, std::optional<FileBlocks>> staged_;
  size_t blocks_ = 0, staged_blocks_ = 0;  ///< of all files
};

}  // namespace migrate
