#include "image/part_file.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <vector>

#include "base/context.h"
#include "base/error.h"

namespace image {

constexpr size_t kPiece = 256 << 10;

base::Fd open_part(const std::string& directory, std::string_view name) {
  constexpr const char* kHint = "an image directory is what `drover image build` makes";
  std::optional<base::Fd> top = base::open_if_exists(directory, O_PATH | O_DIRECTORY);
  if (!top) throw base::error("there is no directory {}", directory).hint(kHint);
  // A pipe must not make us wait for its writer.
  std::optional<base::Fd> fd = base::open_beneath(top->get(), std::string(name), O_RDONLY | O_NONBLOCK);
  if (!fd) throw base::error("{} has no {}", directory, name).hint(kHint);
  struct stat status;
  if (::fstat(fd->get(), &status) != 0) throw base::sys_error("cannot look at {}/{}", directory, name);
  if (!S_ISREG(status.st_mode)) throw base::error("{}/{} is not a regular file", directory, name);
  return std::move(*fd);
}

uint64_t size_of(int fd, std::string_view what) {
  struct stat status;
  if (::fstat(fd, &status) != 0) throw base::sys_error("cannot look at {}", what);
  if (S_ISREG(status.st_mode)) return static_cast<uint64_t>(status.st_size);
  uint64_t bytes = 0;
  if (!S_ISBLK(status.st_mode)) throw base::error("{} is neither a regular file nor a block device", what);
  if (::ioctl(fd, BLKGETSIZE64, &bytes) != 0) throw base::sys_error("cannot learn the size of {}", what);
  return bytes;
}

void read_exact(int fd, uint64_t at, std::span<std::byte> out, std::string_view what) {
  while (!out.empty()) {
    ssize_t got = ::pread(fd, out.data(), out.size(), static_cast<off_t>(at));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw base::sys_error("cannot read {}", what);
    if (got == 0) throw base::error("{} ends too early", what);
    at += static_cast<uint64_t>(got);
    out = out.subspan(static_cast<size_t>(got));
  }
}

void read_pieces(int fd, uint64_t bytes, std::string_view what,
                 const std::function<void(std::span<const std::byte>)>& piece) {
  std::vector<std::byte> buffer(kPiece);
  for (uint64_t at = 0; at < bytes;) {
    base::check_interrupt();
    std::span<std::byte> part = std::span(buffer).first(std::min<uint64_t>(kPiece, bytes - at));
    read_exact(fd, at, part, what);
    piece(part);
    at += part.size();
  }
}

}  // namespace image
