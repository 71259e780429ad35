#include "base/fd.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>

#include "base/error.h"

namespace base {
namespace {

/// Repeats a system call that a signal cut short.
template <class Call>
auto uninterrupted(Call call) {
  decltype(call()) result;
  do result = call();
  while (result == -1 && errno == EINTR);
  return result;
}

/// What a descriptor refers to, for messages.
std::string name_of(int fd) {
  std::error_code error;
  auto target = std::filesystem::read_symlink(std::format("/proc/self/fd/{}", fd), error);
  return error ? std::format("descriptor {}", fd) : target.string();
}

std::string directory_of(const std::string& path) {
  std::string parent = std::filesystem::path(path).parent_path();
  return parent.empty() ? "." : parent;
}

std::string read_all(int fd, const std::string& path, size_t limit) {
  std::string text;
  while (true) {
    constexpr size_t kPiece = 64 << 10;
    size_t had = text.size();
    text.resize(had + kPiece);
    size_t got = read_full(fd, std::as_writable_bytes(std::span(text).subspan(had)));
    text.resize(had + got);
    if (text.size() > limit) throw error("{} is larger than the {} bytes that are allowed", path, limit);
    if (got < kPiece) return text;
  }
}

}  // namespace

void Fd::close() noexcept {
  if (fd_ >= 0) ::close(std::exchange(fd_, -1));
}

Fd open(const std::string& path, int flags, mode_t mode) { return open_at(AT_FDCWD, path, flags, mode); }

Fd open_at(int dir, const std::string& path, int flags, mode_t mode) {
  Fd fd(uninterrupted([&] { return ::openat(dir, path.c_str(), flags | O_CLOEXEC, mode); }));
  if (!fd) throw sys_error("cannot open {}", path);
  return fd;
}

std::optional<Fd> open_if_exists(const std::string& path, int flags) {
  try {
    return open(path, flags);
  } catch (const Error& e) {
    if (e.err() == ENOENT || e.err() == ESRCH) return std::nullopt;
    throw;
  }
}

std::optional<Fd> open_beneath(int dir, const std::string& path, int flags) {
  open_how how{};
  how.flags = static_cast<uint64_t>(flags | O_CLOEXEC);
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS;
  long opened = -1;
  // EAGAIN: something was renamed meanwhile (openat2(2)), and the answer would be a guess.
  do opened = ::syscall(SYS_openat2, dir, path.c_str(), &how, sizeof how);
  while (opened < 0 && (errno == EINTR || errno == EAGAIN));
  Fd fd(static_cast<int>(opened));
  if (fd) return fd;
  if (errno == ENOENT || errno == ENOTDIR || errno == ELOOP || errno == EXDEV) return std::nullopt;
  throw sys_error("cannot open {}", path);
}

Pipe make_pipe() {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) throw sys_error("cannot make a pipe");
  return {.read = Fd(ends[0]), .write = Fd(ends[1])};
}

Fd duplicate(int fd) {
  Fd copy(::fcntl(fd, F_DUPFD_CLOEXEC, 3));  // never in the place of a standard stream
  if (!copy) throw sys_error("cannot duplicate descriptor {}", fd);
  return copy;
}

size_t read_full(int fd, std::span<std::byte> out) {
  size_t done = 0;
  while (done < out.size()) {
    ssize_t got = uninterrupted([&] { return ::read(fd, out.data() + done, out.size() - done); });
    if (got < 0) throw sys_error("cannot read {}", name_of(fd));
    if (got == 0) break;
    done += static_cast<size_t>(got);
  }
  return done;
}

void write_full(int fd, std::span<const std::byte> data, std::string_view what) {
  while (!data.empty()) {
    ssize_t put = uninterrupted([&] { return ::write(fd, data.data(), data.size()); });
    if (put < 0) throw sys_error("cannot write {}", what);
    data = data.subspan(static_cast<size_t>(put));
  }
}

void write_full(int fd, std::string_view data, std::string_view what) {
  write_full(fd, std::as_bytes(std::span(data)), what);
}

std::string read_file(const std::string& path, size_t limit) {
  return read_all(open(path, O_RDONLY).get(), path, limit);
}

std::optional<std::string> read_file_if_exists(const std::string& path, size_t limit) {
  auto fd = open_if_exists(path, O_RDONLY);
  if (!fd) return std::nullopt;
  try {
    return read_all(fd->get(), path, limit);
  } catch (const Error& e) {
    if (e.err() == ESRCH) return std::nullopt;
    throw;
  }
}

void write_file(const std::string& path, std::string_view text) {
  Fd fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
  write_full(fd.get(), text, path);
}

void write_file_atomically(const std::string& path, std::string_view text, mode_t mode) {
  std::string directory = directory_of(path);
  std::string temporary = directory + "/.new-XXXXXX";
  Fd fd(::mkostemp(temporary.data(), O_CLOEXEC));
  if (!fd) throw sys_error("cannot create a file in {}", directory);
  try {
    write_full(fd.get(), text, path);
    if (::fchmod(fd.get(), mode) != 0) throw sys_error("cannot set the mode of {}", path);
    if (::fsync(fd.get()) != 0) throw sys_error("cannot write {} to disk", path);
    if (::rename(temporary.c_str(), path.c_str()) != 0) throw sys_error("cannot replace {}", path);
  } catch (...) {
    ::unlink(temporary.c_str());
    throw;
  }
  fsync_path(directory);
}

void fsync_path(const std::string& path) {
  Fd fd = open(path, O_RDONLY);
  if (::fsync(fd.get()) != 0) throw sys_error("cannot write {} to disk", path);
}

void make_directories(const std::string& path, mode_t mode) {
  for (size_t end = 0; end != std::string::npos;) {
    end = path.find('/', end + 1);
    std::string part = path.substr(0, end);
    if (::mkdir(part.c_str(), mode) != 0 && errno != EEXIST)
      throw sys_error("cannot create directory {}", part);
  }
  if (!std::filesystem::is_directory(path)) throw Error("cannot create directory " + path, ENOTDIR);
}

bool exists(const std::string& path) {
  struct stat status;
  if (::lstat(path.c_str(), &status) == 0) return true;
  if (errno == ENOENT || errno == ENOTDIR) return false;
  throw sys_error("cannot look at {}", path);
}

}  // namespace base
