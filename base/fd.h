#pragma once
#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>

namespace base {

/// Owns a file descriptor. Every descriptor that base opens is close-on-exec.
class [[nodiscard]] Fd {
 public:
  Fd() = default;
  explicit Fd(int fd) : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(other.release()) {}
  Fd& operator=(Fd&& other) noexcept {
    if (this != &other) {
      close();
      fd_ = other.release();
    }
    return *this;
  }
  ~Fd() { close(); }

  [[nodiscard]] int get() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }
  int release() { return std::exchange(fd_, -1); }
  void close() noexcept;

 private:
  int fd_ = -1;
};

/// openat(2) with O_CLOEXEC; throws "cannot open PATH: …". `mode` is for O_CREAT.
Fd open(const std::string& path, int flags, mode_t mode = 0600);
Fd open_at(int dir, const std::string& path, int flags, mode_t mode = 0600);
/// The same, with nullopt for ENOENT, and in /proc for ESRCH: the process has ended.
std::optional<Fd> open_if_exists(const std::string& path, int flags);

/// Opens below `dir` and nowhere else, through no symbolic link (openat2(2)): for trees that
/// somebody else fills. nullopt when it does not exist or leads out.
std::optional<Fd> open_beneath(int dir, const std::string& path, int flags);

struct Pipe {
  Fd read, write;
};
Pipe make_pipe();

/// Duplicates with close-on-exec.
Fd duplicate(int fd);

/// Reads until `out` is full or the end is reached; returns the bytes read.
size_t read_full(int fd, std::span<std::byte> out);
/// Throws when not everything could be written. `what` names the target in the message.
void write_full(int fd, std::span<const std::byte> data, std::string_view what);
void write_full(int fd, std::string_view data, std::string_view what);

/// Whole small files. `limit` bounds what is read: more is an Error.
std::string read_file(const std::string& path, size_t limit = 64 << 20);
/// The same, with nullopt as open_if_exists().
std::optional<std::string> read_file_if_exists(const std::string& path, size_t limit = 64 << 20);
/// Writes in place, without fsync: for /proc, /sys and scratch files.
void write_file(const std::string& path, std::string_view text);
/// The file holds the old bytes or the new ones, also after a power cut: temporary
/// file, fsync, rename, fsync of the directory.
void write_file_atomically(const std::string& path, std::string_view text, mode_t mode = 0644);
void fsync_path(const std::string& path);  ///< of a file or a directory

void make_directories(const std::string& path, mode_t mode = 0755);  ///< mkdir -p
void remove_tree(const std::string& path);  ///< rm -rf --one-file-system; a missing path is fine
bool exists(const std::string& path);       ///< lstat(2) finds it

}  // namespace base
