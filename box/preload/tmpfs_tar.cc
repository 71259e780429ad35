// The images stay as CRIU's are: a gzip file (RFC 1952) with a tar archive (ustar of POSIX.1, with two blocks
// of zeros at its end) in it, which any tar reads. It is in stored blocks (RFC 1951): images are compressed
// on their way, and as they are small this is what makes no work. These stored blocks are also the only ones
// that unpack_tmpfs() takes.
#include "box/preload/tmpfs_tar.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>

namespace box {
namespace {

constexpr size_t kBlock = 512;
constexpr size_t kMost = 1 << 20;  // of an archive: what is larger takes its time with tar as well
constexpr int kMostDepth = 32;
constexpr size_t kMostStored = 0xffff;

struct Header {
  char name[100], mode[8], uid[8], gid[8], size[12], mtime[12], sum[8], type, link[100], magic[8], uname[32],
      gname[32], major[8], minor[8], prefix[155], rest[12];
};
static_assert(sizeof(Header) == kBlock);

enum Type : char { kFile = '0', kLink = '2', kDirectory = '5', kFifo = '6' };

class Closing {
 public:
  explicit Closing(int fd) : fd_(fd) {}
  Closing(const Closing&) = delete;
  Closing& operator=(const Closing&) = delete;
  ~Closing() {
    if (fd_ >= 0) ::close(fd_);
  }
  operator int() const { return fd_; }

 private:
  const int fd_;
};

/// Memory of kMost bytes; nullptr: there is none. It goes with the process.
unsigned char* memory() {
  void* const got = ::mmap(nullptr, kMost, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return got == MAP_FAILED ? nullptr : static_cast<unsigned char*>(got);
}

/// False: it does not fit into a header.
template <size_t N>
bool put_number(char (&field)[N], uint64_t number) {
  field[N - 1] = '\0';
  for (size_t i = N - 1; i-- > 0; number >>= 3) field[i] = static_cast<char>('0' + (number & 7));
  return number == 0;
}

template <size_t N>
bool get_number(const char (&field)[N], uint64_t& number) {
  number = 0;
  for (size_t i = 0; i < N - 1; ++i) {
    if (field[i] < '0' || field[i] > '7') return false;
    number = number << 3 | static_cast<uint64_t>(field[i] - '0');
  }
  return field[N - 1] == '\0';
}

/// With the field of the sum as blanks.
uint64_t sum_of(Header header) {
  std::memset(header.sum, ' ', sizeof header.sum);
  uint64_t sum = 0;
  for (size_t i = 0; i < sizeof header; ++i) sum += reinterpret_cast<const unsigned char*>(&header)[i];
  return sum;
}

uint32_t crc_of(const unsigned char* data, size_t size) {
  std::array<uint32_t, 256> table;
  for (uint32_t i = 0; i < table.size(); ++i) {
    uint32_t crc = i;
    for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (crc & 1 ? 0xedb88320 : 0);
    table[i] = crc;
  }
  uint32_t crc = ~0U;
  for (size_t i = 0; i < size; ++i) crc = crc >> 8 ^ table[(crc ^ data[i]) & 0xff];
  return ~crc;
}

uint32_t little32(const unsigned char* at) {
  return static_cast<uint32_t>(at[0] | at[1] << 8 | at[2] << 16) | static_cast<uint32_t>(at[3]) << 24;
}

void put_little(unsigned char* at, uint32_t number, int bytes) {
  for (int i = 0; i < bytes; ++i, number >>= 8) at[i] = static_cast<unsigned char>(number);
}

constexpr unsigned char kGzip[10] = {0x1f, 0x8b, 8 /* deflate */, 0, 0, 0, 0, 0, 0, 255 /* of no system */};

/// An archive in memory.
class Packer {
 public:
  explicit Packer(unsigned char* archive) : archive_(archive) {}

  /// False: tar has to do it.
  bool pack(int directory) {
    struct stat about{};
    if (::fstat(directory, &about) != 0) return false;
    device_ = about.st_dev;
    std::strcpy(path_, "./");
    if (!add(kDirectory, about, "", 0) || !walk(directory, 2, 0)) return false;
    return room(2 * kBlock) != nullptr;
  }
  [[nodiscard]] size_t size() const { return size_; }
  [[nodiscard]] unsigned entries() const { return entries_; }

 private:
  /// Zeros.
  unsigned char* room(size_t bytes) {
    bytes = (bytes + kBlock - 1) / kBlock * kBlock;
    if (kMost - size_ < bytes) return nullptr;
    size_ += bytes;
    return archive_ + size_ - bytes;
  }

  /// What is at path_.
  bool add(Type type, const struct stat& about, const char* link, uint64_t size) {
    auto* const header = reinterpret_cast<Header*>(room(kBlock));
    if (!header || std::strlen(path_) > sizeof header->name || std::strlen(link) > sizeof header->link ||
        about.st_mtime < 0)
      return false;
    std::memcpy(header->name, path_, std::strlen(path_));
    std::memcpy(header->link, link, std::strlen(link));
    std::memcpy(header->magic, "ustar\00000", sizeof header->magic);
    header->type = type;
    ++entries_;
    if (!put_number(header->mode, about.st_mode & 07777) || !put_number(header->uid, about.st_uid) ||
        !put_number(header->gid, about.st_gid) || !put_number(header->size, size) ||
        !put_number(header->mtime, static_cast<uint64_t>(about.st_mtime)) || !put_number(header->major, 0) ||
        !put_number(header->minor, 0))
      return false;
    return put_number(header->sum, sum_of(*header));
  }

  /// What is in `directory`, whose path is the first `length` characters of path_.
  bool walk(int directory, size_t length, int depth) {
    const int again = ::openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR* const list = again < 0 ? nullptr : ::fdopendir(again);
    if (!list || depth > kMostDepth) {
      if (list) ::closedir(list);
      return false;
    }
    bool good = true;
    errno = 0;
    while (const dirent* entry = good ? ::readdir(list) : nullptr) {
      const char* const name = entry->d_name;
      if (std::strcmp(name, ".") == 0 || std::strcmp(name, "..") == 0) continue;
      const size_t end = length + std::strlen(name);
      good = end + 1 < sizeof path_;
      if (!good) break;
      std::strcpy(path_ + length, name);
      good = visit(directory, name, end, depth);
      errno = 0;
    }
    good = good && errno == 0;
    ::closedir(list);
    return good;
  }

  bool visit(int directory, const char* name, size_t end, int depth) {
    struct stat about{};
    if (::fstatat(directory, name, &about, AT_SYMLINK_NOFOLLOW) != 0 || about.st_dev != device_) return false;
    switch (about.st_mode & S_IFMT) {
      case S_IFDIR: {
        std::strcpy(path_ + end, "/");
        const Closing below(::openat(directory, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
        return below >= 0 && add(kDirectory, about, "", 0) && walk(below, end + 1, depth + 1);
      }
      case S_IFLNK: {
        char link[sizeof Header::link + 1];
        const ssize_t length = ::readlinkat(directory, name, link, sizeof link);
        if (length < 0 || length >= static_cast<ssize_t>(sizeof link)) return false;
        link[length] = '\0';
        return add(kLink, about, link, 0);
      }
      case S_IFIFO:
        return about.st_nlink == 1 && add(kFifo, about, "", 0);
      case S_IFREG:
        return about.st_nlink == 1 && about.st_blocks * 512 >= about.st_size &&
               add_file(directory, name, about);
      case S_IFSOCK:
        return true;  // as tar: CRIU makes it
      default:
        return false;
    }
  }

  bool add_file(int directory, const char* name, const struct stat& about) {
    const auto size = static_cast<size_t>(about.st_size);
    if (about.st_size > static_cast<off_t>(kMost) || !add(kFile, about, "", size)) return false;
    unsigned char* at = room(size);
    const Closing file(::openat(directory, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC));
    if (!at || file < 0) return false;
    for (size_t left = size; left > 0;) {
      const ssize_t got = ::read(file, at, left);
      if (got <= 0) return false;
      at += got;
      left -= static_cast<size_t>(got);
    }
    return true;
  }

  unsigned char* const archive_;
  size_t size_ = 0;
  unsigned entries_ = 0;
  dev_t device_ = 0;
  char path_[PATH_MAX];
};

bool write_all(int fd, const unsigned char* data, size_t size) {
  while (size > 0) {
    const ssize_t wrote = ::write(fd, data, size);
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote <= 0) return false;
    data += wrote;
    size -= static_cast<size_t>(wrote);
  }
  return true;
}

bool write_gzip(int fd, const unsigned char* data, size_t size) {
  if (!write_all(fd, kGzip, sizeof kGzip)) return false;
  for (size_t at = 0; at < size;) {
    const size_t stored = std::min(size - at, kMostStored);
    unsigned char head[5] = {at + stored == size};
    put_little(head + 1, static_cast<uint32_t>(stored), 2);
    put_little(head + 3, ~static_cast<uint32_t>(stored), 2);
    if (!write_all(fd, head, sizeof head) || !write_all(fd, data + at, stored)) return false;
    at += stored;
  }
  unsigned char tail[8];
  put_little(tail, crc_of(data, size), 4);
  put_little(tail + 4, static_cast<uint32_t>(size), 4);
  return write_all(fd, tail, sizeof tail);
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

bool pack_tmpfs(int directory, int archive, int& status) {
  unsigned char* const room = memory();
  if (!room) return false;
  Packer packer(room);
  if (!packer.pack(directory)) return false;
  const bool good = write_gzip(archive, room, packer.size());
  if (good)
    std::fprintf(stderr, "drover: packed %u entries of a tmpfs\n", packer.entries());
  else
    std::fprintf(stderr, "drover: Error (tmpfs): cannot write an image: %s\n", std::strerror(errno));
  status = good ? 0 : 2;
  return true;
}

bool unpack_tmpfs(int archive, const char* path, int& status) {
  unsigned char* const room = memory();
  struct stat about{};
  if (!room || ::fstat(archive, &about) != 0 || !S_ISREG(about.st_mode)) return false;
  size_t size = 0;
  for (ssize_t got = 0; size < kMost; size += static_cast<size_t>(got))
    if ((got = ::pread(archive, room + size, kMost - size, static_cast<off_t>(size))) <= 0) break;
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
