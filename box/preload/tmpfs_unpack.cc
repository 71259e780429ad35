#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>

#include "box/preload/tar_format.h"
#include "box/preload/tmpfs_tar.h"

namespace box {
namespace {

uint32_t little32(const unsigned char* at) {
  return static_cast<uint32_t>(at[0] | at[1] << 8 | at[2] << 16) | static_cast<uint32_t>(at[3]) << 24;
}

/// Puts what write_gzip() was given where the file is in memory, and says how much it is; 0: it is something
/// else, or damaged.
size_t unzip(unsigned char* file, size_t size) {
  if (size < sizeof kGzip + 8 || std::memcmp(file, kGzip, sizeof kGzip) != 0) return 0;
  size_t at = sizeof kGzip, to = 0;
  for (bool last = false; !last;) {
    if (size - at < 5 || file[at] > 1) return 0;
    last = file[at] == 1;
    const size_t stored = little32(file + at + 1) & 0xffff;
    if ((stored ^ (little32(file + at + 1) >> 16)) != 0xffff || size - at - 5 < stored) return 0;
    std::memmove(file + to, file + at + 5, stored);
    to += stored;
    at += 5 + stored;
  }
  if (size - at != 8 || little32(file + at + 4) != to || little32(file + at) != crc_of(file, to)) return 0;
  return to;
}

class Unpacker {
 public:
  Unpacker(const unsigned char* archive, size_t size) : archive_(archive), size_(size) {}

  /// Calls `entry(header, path, content, size)` for each; false when it returns that, or the archive is none
  /// of ours.
  template <class Entry>
  bool each(const Entry& entry) const {
    for (size_t at = 0; size_ - at >= kBlock;) {
      const auto& header = *reinterpret_cast<const Header*>(archive_ + at);
      if (std::all_of(archive_ + at, archive_ + size_, [](auto c) { return c == 0; })) return at > 0;
      at += kBlock;
      uint64_t sum = 0, size = 0;
      if (!get_number(header.sum, sum) || sum != sum_of(header) || !get_number(header.size, size) ||
          size > size_ - at)
        return false;
      char path[sizeof header.name + 1] = {};
      std::memcpy(path, header.name, sizeof header.name);
      if (!entry(header, path, archive_ + at, static_cast<size_t>(size))) return false;
      at += (size + kBlock - 1) / kBlock * kBlock;
      if (at > size_) return false;
    }
    return false;
  }

 private:
  const unsigned char* const archive_;
  const size_t size_;
};

/// Of "./a/b" or "./a/b/" the parent, which is opened, and the name.
class Place {
 public:
  Place(int root, char* path) {
    size_t length = std::strlen(path);
    if (length > 2 && path[length - 1] == '/') path[--length] = '\0';
    char* const slash = std::strrchr(path, '/');
    if (!slash || path[0] != '.' || path[1] != '/') return;
    *slash = '\0';
    // Nothing in the archive leads out of the directory.
    open_how how{};
    how.flags = O_PATH | O_DIRECTORY | O_CLOEXEC;
    how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV;
    parent = static_cast<int>(::syscall(SYS_openat2, root, path, &how, sizeof how));
    name = slash[1] == '\0' ? "." : slash + 1;
    if (std::strcmp(name, "..") == 0 || (name[0] == '.' && name[1] == '\0' && slash != path + 1))
      name = nullptr;
  }
  Place(const Place&) = delete;
  Place& operator=(const Place&) = delete;
  ~Place() {
    if (parent >= 0) ::close(parent);
  }
  [[nodiscard]] bool good() const { return parent >= 0 && name; }
  [[nodiscard]] bool is_root() const { return std::strcmp(name, ".") == 0; }

  int parent = -1;
  const char* name = nullptr;
};

bool make(const Place& place, const Header& header, const unsigned char* content, size_t size) {
  switch (header.type) {
    case kDirectory:
      return place.is_root() || ::mkdirat(place.parent, place.name, 0700) == 0;
    case kFifo:
      return ::mkfifoat(place.parent, place.name, 0600) == 0;
    case kLink: {
      char link[sizeof header.link + 1] = {};
      std::memcpy(link, header.link, sizeof header.link);
      return ::symlinkat(link, place.parent, place.name) == 0;
    }
    case kFile: {
      const Closing file(
          ::openat(place.parent, place.name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
      return file >= 0 && write_all(file, content, size);
    }
    default:
      return false;
  }
}

bool set_attributes(const Place& place, const Header& header) {
  uint64_t mode = 0, uid = 0, gid = 0, mtime = 0;
  if (!get_number(header.mode, mode) || !get_number(header.uid, uid) || !get_number(header.gid, gid) ||
      !get_number(header.mtime, mtime))
    return false;
  const timespec times[2] = {{0, UTIME_NOW}, {static_cast<time_t>(mtime), 0}};
  return ::fchownat(place.parent, place.name, static_cast<uid_t>(uid), static_cast<gid_t>(gid),
                    AT_SYMLINK_NOFOLLOW) == 0 &&
         // After the owner, whose change takes bits of it away.
         (header.type == kLink || ::fchmodat(place.parent, place.name, static_cast<mode_t>(mode), 0) == 0) &&
         ::utimensat(place.parent, place.name, times, AT_SYMLINK_NOFOLLOW) == 0;
}

}  // namespace

bool unpack_tmpfs(int archive, const char* path, int& status) {
  unsigned char* const room = memory();
  struct stat about{};
  if (!room || ::fstat(archive, &about) != 0 || !S_ISREG(about.st_mode)) return false;
  size_t size = 0;
  for (ssize_t got = 0; size < kMostArchive; size += static_cast<size_t>(got))
    if ((got = ::pread(archive, room + size, kMostArchive - size, static_cast<off_t>(size))) <= 0) break;
  if (static_cast<off_t>(size) != about.st_size) return false;
  const Unpacker unpacker(room, unzip(room, size));
  const Closing root(::open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  unsigned entries = 0;
  const bool known =
      root >= 0 && unpacker.each([&](const Header& header, char*, const unsigned char*, size_t) {
        ++entries;
        return header.type == kFile || header.type == kLink || header.type == kDirectory ||
               header.type == kFifo;
      });
  // A directory's time is that of what was made in it last, so all of them get theirs afterwards.
  const bool good =
      known &&
      unpacker.each([&](const Header& header, char* name, const unsigned char* content, size_t length) {
        const Place place(root, name);
        return place.good() && make(place, header, content, length) &&
               (header.type == kDirectory || set_attributes(place, header));
      }) &&
      unpacker.each([&](const Header& header, char* name, const unsigned char*, size_t) {
        if (header.type != kDirectory) return true;
        const Place place(root, name);
        return place.good() && set_attributes(place, header);
      });
  if (!good) return false;  // tar replaces what is there, or says what is wrong with it
  std::fprintf(stderr, "drover: unpacked %u entries of a tmpfs\n", entries);
  status = 0;
  return true;
}

}  // namespace box
