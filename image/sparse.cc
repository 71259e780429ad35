#include "image/sparse.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <vector>

#include "base/context.h"
#include "base/error.h"
#include "base/fd.h"

namespace image {
namespace {

constexpr size_t kBlock = 4096, kPiece = 256 * kBlock;

void put(int fd, std::span<const std::byte> bytes, uint64_t at, const std::string& path) {
  while (!bytes.empty()) {
    ssize_t written = ::pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(at));
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) throw base::sys_error("cannot write {}", path);
    bytes = bytes.subspan(static_cast<size_t>(written));
    at += static_cast<uint64_t>(written);
  }
}

bool all_zero(std::span<const std::byte> bytes) {
  return std::ranges::all_of(bytes, [](std::byte byte) { return byte == std::byte{}; });
}

/// Blocks that are not all zeros, as many in one write as stand together.
void put_blocks(int fd, std::span<const std::byte> bytes, uint64_t at, const std::string& path) {
  for (size_t begin = 0; begin < bytes.size();) {
    size_t end = begin;
    while (end < bytes.size() && !all_zero(bytes.subspan(end, std::min(kBlock, bytes.size() - end))))
      end += kBlock;
    end = std::min(end, bytes.size());
    put(fd, bytes.subspan(begin, end - begin), at + begin, path);
    begin = end + kBlock;
  }
}

/// Where data begins at or behind `at`; the file's end when there is none.
uint64_t next_data(int fd, uint64_t at, uint64_t size) {
  off_t found = ::lseek(fd, static_cast<off_t>(at), SEEK_DATA);
  if (found >= 0) return static_cast<uint64_t>(found) / kBlock * kBlock;
  return errno == ENXIO ? size : at;  // a file system without holes has data everywhere
}

}  // namespace

void make_sparse(const std::string& path, uint64_t bytes) {
  base::Fd file = base::open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
  if (::ftruncate(file.get(), static_cast<off_t>(bytes)) != 0)
    throw base::sys_error("cannot give {} its size of {} bytes", path, bytes);
}

void copy_sparse(const std::string& file, const std::string& disk, uint64_t start,
                 const std::function<void(uint64_t)>& done) {
  base::Fd from = base::open(file, O_RDONLY), to = base::open(disk, O_WRONLY);
  struct stat about = {};
  if (::fstat(from.get(), &about) != 0) throw base::sys_error("cannot look at {}", file);
  auto size = static_cast<uint64_t>(about.st_size);
  std::vector<std::byte> piece(kPiece);
  for (uint64_t at = next_data(from.get(), 0, size); at < size;) {
    base::check_interrupt();
    if (::lseek(from.get(), static_cast<off_t>(at), SEEK_SET) < 0)
      throw base::sys_error("cannot read {}", file);
    size_t got = base::read_full(from.get(), piece);
    if (got == 0) throw base::error("{} became shorter while it was read", file);
    put_blocks(to.get(), std::span(piece).first(got), start + at, disk);
    at = next_data(from.get(), at + got, size);
    if (done) done(at);
  }
}

void write_at(const std::string& disk, uint64_t start, std::string_view bytes) {
  base::Fd file = base::open(disk, O_WRONLY);
  put(file.get(), std::as_bytes(std::span(bytes)), start, disk);
}

}  // namespace image
