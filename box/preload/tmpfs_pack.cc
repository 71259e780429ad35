#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstdint>
#include <cstdio>
#include <cstring>

#include "box/preload/tar_format.h"
#include "box/preload/tmpfs_tar.h"

namespace box {
namespace {

constexpr int kMostDepth = 32;
constexpr size_t kMostStored = 0xffff;

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
    if (kMostArchive - size_ < bytes) return nullptr;
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
    if (about.st_size > static_cast<off_t>(kMostArchive) || !add(kFile, about, "", size)) return false;
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

void put_little(unsigned char* at, uint32_t number, int bytes) {
  for (int i = 0; i < bytes; ++i, number >>= 8) at[i] = static_cast<unsigned char>(number);
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

}  // namespace box
