#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "migrate/tree_blocks.h"
#include "migrate/tree_record.h"

namespace migrate {

/// Sends what is in one file after the other: between size and metadata of a record. A file that is cut short
/// meanwhile ends early; the caller sees that it has changed.
class ContentSender {
 public:
  /// `at` is called often, with the position in the file.
  ContentSender(RecordWriter& out, SentContents& contents, std::function<void(uint64_t)> at)
      : out_(out), contents_(contents), at_(std::move(at)), piece_(kPiece) {}

  /// All of it as extents, noted in `blocks` unless that is nullptr. `path` is for messages. Returns the
  /// bytes sent.
  uint64_t whole(int fd, uint64_t size, FileBlocks* blocks, const std::string& path);
  /// What differs from `sent`: runs of blocks, and holes where data was. Only blocks that are `doubtful` are
  /// read, the last one among them. Noted in `blocks` unless that is nullptr.
  uint64_t patch(int fd, uint64_t size, const FileBlocks& sent, const BlockRanges& doubtful,
                 FileBlocks* blocks, const std::string& path);
  [[nodiscard]] uint64_t read_bytes() const { return read_bytes_; }  ///< of all files so far
  /// The last file was: what was noted of it is not what the other side has behind the cut.
  [[nodiscard]] bool cut_short() const { return cut_short_; }

 private:
  static constexpr size_t kPiece = 256 << 10;

  /// Calls `take(offset, bytes)` for all that is in the file between `from` and `size`, and no hole. Pieces
  /// begin and end at multiples of `align`, or at `size`.
  template <class Take>
  void read_data(int fd, uint64_t from, uint64_t size, uint64_t align, const std::string& path, Take take);
  /// Reads until `piece` is full, or the file ends. Returns the bytes read.
  static size_t read_piece(int fd, uint64_t at, std::span<std::byte> piece, const std::string& path);
  void extent(uint64_t offset, std::span<const std::byte> bytes);
  void hole(size_t first, size_t end, uint64_t size);

  RecordWriter& out_;
  SentContents& contents_;
  std::function<void(uint64_t)> at_;
  std::vector<std::byte> piece_;
  uint64_t sent_bytes_ = 0, read_bytes_ = 0;
  bool cut_short_ = false;
};

}  // namespace migrate
