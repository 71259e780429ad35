#include "migrate/tree_content.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "base/error.h"
#include "migrate/tree_format.h"

namespace migrate {

template <class Take>
void ContentSender::read_data(int fd, uint64_t from, uint64_t size, uint64_t align, const std::string& path,
                              Take take) {
  for (uint64_t pos = from; pos < size;) {
    off_t data = ::lseek(fd, static_cast<off_t>(pos), SEEK_DATA);
    if (data < 0 && errno == ENXIO) return;  // a hole up to the end
    if (data < 0) throw base::sys_error("cannot read {}", path);
    off_t hole = ::lseek(fd, data, SEEK_HOLE);
    if (hole < 0 && errno != ENXIO) throw base::sys_error("cannot read {}", path);
    if (hole < 0 || static_cast<uint64_t>(data) >= size) return;  // cut short meanwhile
    pos = std::max(pos, static_cast<uint64_t>(data) / align * align);
    const uint64_t end = std::min((static_cast<uint64_t>(hole) + align - 1) / align * align, size);
    while (pos < end) {
      auto piece = std::span(piece_).first(std::min<size_t>(piece_.size(), end - pos));
      const size_t have = read_piece(fd, pos, piece, path);
      read_bytes_ += have;
      if (have > 0) take(pos, piece.first(have));
      if (have < piece.size()) {
        cut_short_ = true;
        return;
      }
      pos += have;
      at_(pos);
    }
  }
}

size_t ContentSender::read_piece(int fd, uint64_t at, std::span<std::byte> piece, const std::string& path) {
  size_t have = 0;
  while (have < piece.size()) {
    ssize_t got = ::pread(fd, piece.data() + have, piece.size() - have, static_cast<off_t>(at + have));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw base::sys_error("cannot read {}", path);
    if (got == 0) break;
    have += static_cast<size_t>(got);
  }
  return have;
}

uint64_t ContentSender::whole(int fd, uint64_t size, FileBlocks* blocks, const std::string& path) {
  cut_short_ = false;
  read_data(fd, 0, size, blocks ? kBlockSize : 1, path,
            [&](uint64_t offset, std::span<const std::byte> bytes) {
              if (blocks) contents_.note(*blocks, offset, bytes);
              extent(offset, bytes);
            });
  return std::exchange(sent_bytes_, 0);
}

uint64_t ContentSender::patch(int fd, uint64_t size, const FileBlocks& sent, const BlockRanges& doubtful,
                              FileBlocks* blocks, const std::string& path) {
  cut_short_ = false;
  FileBlocks sums(kPiece / kBlockSize);
  size_t next = 0;  // the first block of which nothing was said
  auto holes_until = [&](size_t end) {
    while (next < end) {
      while (next < end && sent.is_hole(next)) ++next;
      const size_t first = next;
      while (next < end && !sent.is_hole(next)) ++next;
      if (next > first) hole(first, next, size);
    }
  };
  auto compare = [&](uint64_t offset, std::span<const std::byte> bytes) {
    contents_.note(sums, 0, bytes);
    const size_t first = offset / kBlockSize, end = first + blocks_of(bytes.size());
    if (blocks) blocks->set(first, sums, end - first);
    holes_until(first);
    const auto same = [&](size_t block) { return sent.same(block, sums, block - first); };
    for (next = first; next < end;) {
      while (next < end && same(next)) ++next;
      const size_t from = next;
      while (next < end && !same(next)) ++next;
      if (next == from) continue;
      const size_t begin = (from - first) * kBlockSize;
      out_.u8(static_cast<uint8_t>(PieceKind::kExtent));
      extent(offset + begin,
             bytes.subspan(begin, std::min(bytes.size() - begin, (next - from) * kBlockSize)));
    }
  };
  for (const BlockRange& range : doubtful) {
    if (blocks) blocks->keep(sent, next, range.begin);
    next = range.begin;
    read_data(fd, range.begin * kBlockSize, std::min(range.end * kBlockSize, size), kBlockSize, path,
              compare);
    holes_until(range.end);
  }
  return std::exchange(sent_bytes_, 0);
}

void ContentSender::extent(uint64_t offset, std::span<const std::byte> bytes) {
  out_.u32(static_cast<uint32_t>(bytes.size()));
  out_.u64(offset);
  out_.data(bytes);
  sent_bytes_ += bytes.size();
}

void ContentSender::hole(size_t first, size_t end, uint64_t size) {
  const uint64_t offset = first * kBlockSize;
  out_.u8(static_cast<uint8_t>(PieceKind::kHole));
  out_.u64(std::min(end * kBlockSize, size) - offset);
  out_.u64(offset);
}

}  // namespace migrate
