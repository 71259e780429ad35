#include "migrate/tree_walk.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "base/error.h"

namespace migrate {
namespace {

using base::Fd;

// O_NOATIME: a read of ours must not change what the next round compares.
constexpr int kDirectory = O_RDONLY | O_DIRECTORY | O_NOATIME;

/// struct linux_dirent64 of getdents64(2), which no header offers.
struct DirEntry {
  uint64_t ino;
  int64_t next;
  uint16_t length;
  uint8_t type;
  char name[1];
};

}  // namespace

std::string shown_name(std::string_view name) {
  std::string text;
  for (unsigned char c : name) {
    if (c < 0x20 || c >= 0x7f || c == '\\') {
      text += std::format("\\x{:02x}", c);
    } else {
      text += static_cast<char>(c);
    }
  }
  return text;
}

Fd open_beneath(int dir, const char* name, int flags, mode_t mode) {
  struct open_how how = {};
  how.flags = static_cast<uint64_t>(flags | O_NOFOLLOW | O_CLOEXEC);
  how.mode = mode;
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV | RESOLVE_NO_MAGICLINKS;
  long fd = -1;
  // EAGAIN: something was renamed meanwhile (openat2(2)), and the answer would be a guess.
  do fd = ::syscall(SYS_openat2, dir, name, &how, sizeof how);
  while (fd < 0 && (errno == EINTR || errno == EAGAIN));
  return Fd(static_cast<int>(fd));
}

void DirChain::enter(std::string_view name) {
  levels_.push_back({.name = std::string(name), .fd = {}});
  // The one that leaves the window of the last 64; multiples of 64 stay.
  size_t left = levels_.size() - 1;
  if (left >= kStep && (left - kStep) % kStep != 0) levels_[left - kStep].fd.close();
}

int DirChain::try_fd(size_t depth) {
  size_t at = depth;
  while (at > 0 && !levels_[at - 1].fd) --at;
  int fd = at > 0 ? levels_[at - 1].fd.get() : root_;
  for (; at < depth; ++at) {
    levels_[at].fd = open_beneath(fd, levels_[at].name.c_str(), kDirectory);
    fd = levels_[at].fd.get();
    if (fd < 0) return -1;
    if (at >= kStep && (at - kStep) % kStep != 0) levels_[at - kStep].fd.close();
  }
  return fd;
}

int DirChain::fd() {
  int fd = try_fd();
  if (fd < 0 && errno == EXDEV) throw base::error("something is mounted at {}", path());
  if (fd < 0) throw base::sys_error("cannot open {}", path());
  return fd;
}

std::string DirChain::path(std::string_view name) const {
  constexpr size_t kEnd = 8;  // of a deep path its end tells more
  std::string text;
  size_t from = levels_.size() > 2 * kEnd ? levels_.size() - kEnd : 0;
  if (from > 0) text = "...";
  for (size_t i = from; i < levels_.size(); ++i) text += "/" + shown_name(levels_[i].name);
  if (!name.empty()) text += "/" + shown_name(name);
  return text.empty() ? "/" : text;
}

bool read_names(int dir, std::string& out) {
  alignas(DirEntry) std::array<char, 64 << 10> buffer;
  if (::lseek(dir, 0, SEEK_SET) != 0) return false;
  while (true) {
    long got = ::syscall(SYS_getdents64, dir, buffer.data(), buffer.size());
    if (got <= 0) return got == 0;
    for (long at = 0; at < got;) {
      const char* entry = buffer.data() + at;
      uint16_t length = 0;
      std::memcpy(&length, entry + offsetof(DirEntry, length), sizeof length);
      at += length;
      const char* name = entry + offsetof(DirEntry, name);
      if (std::strcmp(name, ".") != 0 && std::strcmp(name, "..") != 0)
        out.append(name, std::strlen(name) + 1);
    }
  }
}

void remove_entry(int dir, const char* name, const std::string& path) {
  auto removed = [&](int in, const char* entry) {
    if (::unlinkat(in, entry, 0) == 0 || errno == ENOENT) return true;
    if (errno == EISDIR && (::unlinkat(in, entry, AT_REMOVEDIR) == 0 || errno == ENOENT)) return true;
    if (errno != ENOTEMPTY && errno != EEXIST) throw base::sys_error("cannot remove {}", path);
    return false;
  };
  if (removed(dir, name)) return;
  DirChain chain(dir);
  std::vector<std::vector<std::string>> left;  // for each level, the directories in it that were not empty
  auto enter = [&](const std::string& directory) {
    chain.enter(directory);
    left.emplace_back();
    std::string names;
    int fd = chain.fd();
    if (!read_names(fd, names)) throw base::sys_error("cannot read {}", path);
    for (size_t at = 0; at < names.size(); at += std::strlen(&names[at]) + 1)
      if (!removed(fd, &names[at])) left.back().emplace_back(&names[at]);
  };
  std::vector<std::string> within;  // the names of the levels
  within.emplace_back(name);
  enter(within.back());
  while (!within.empty()) {
    if (!left.back().empty()) {
      within.push_back(std::move(left.back().back()));
      left.back().pop_back();
      enter(within.back());
      continue;
    }
    left.pop_back();
    chain.leave();
    if (::unlinkat(chain.fd(), within.back().c_str(), AT_REMOVEDIR) != 0)
      throw base::sys_error("cannot remove {}", path);
    within.pop_back();
  }
}

}  // namespace migrate
