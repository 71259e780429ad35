#include "bootstrap/copy_tree.h"

#include <fcntl.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <array>
#include <filesystem>

#include "base/error.h"
#include "base/fd.h"

namespace bootstrap {
namespace {

namespace fs = std::filesystem;

struct stat status_of(const std::string& path) {
  struct stat about = {};
  if (::lstat(path.c_str(), &about) != 0) throw base::sys_error("cannot look at {}", path);
  return about;
}

void copy_bytes(const std::string& from, const std::string& to) {
  base::Fd in = base::open(from, O_RDONLY | O_NOFOLLOW);
  base::Fd out = base::open(to, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW);
  constexpr size_t kPiece = 1 << 20;
  while (true) {
    ssize_t sent = ::sendfile(out.get(), in.get(), nullptr, kPiece);
    if (sent < 0) throw base::sys_error("cannot copy {} to {}", from, to);
    if (sent == 0) return;
  }
}

void copy_attributes(const std::string& from, const std::string& to) {
  std::array<char, 64 << 10> names;  // XATTR_LIST_MAX, and of a value XATTR_SIZE_MAX
  std::array<char, 64 << 10> value;
  ssize_t size = ::llistxattr(from.c_str(), names.data(), names.size());
  if (size < 0 && errno == ENOTSUP) return;
  if (size < 0) throw base::sys_error("cannot list the extended attributes of {}", from);
  for (const char* name = names.data(); name < names.data() + size;
       name += std::string_view(name).size() + 1) {
    ssize_t got = ::lgetxattr(from.c_str(), name, value.data(), value.size());
    if (got < 0) throw base::sys_error("cannot read {} of {}", name, from);
    if (::lsetxattr(to.c_str(), name, value.data(), static_cast<size_t>(got), 0) != 0)
      throw base::sys_error("cannot set {} of {}", name, to);
  }
}

/// Owner, mode and times, after the content: writing would change them.
void copy_status(const struct stat& about, const std::string& from, const std::string& to) {
  if (::lchown(to.c_str(), about.st_uid, about.st_gid) != 0)
    throw base::sys_error("cannot set the owner of {}", to);
  if (!S_ISLNK(about.st_mode) && ::chmod(to.c_str(), about.st_mode & 07777) != 0)
    throw base::sys_error("cannot set the mode of {}", to);
  copy_attributes(from, to);
  const std::array<timespec, 2> times = {about.st_atim, about.st_mtim};
  if (::utimensat(AT_FDCWD, to.c_str(), times.data(), AT_SYMLINK_NOFOLLOW) != 0)
    throw base::sys_error("cannot set the time of {}", to);
}

void copy_entry(const std::string& from, const std::string& to) {
  struct stat about = status_of(from);
  if (S_ISDIR(about.st_mode)) {
    if (::mkdir(to.c_str(), 0700) != 0) throw base::sys_error("cannot create {}", to);
    for (const auto& entry : fs::directory_iterator(from))
      copy_entry(entry.path(), to + "/" + entry.path().filename().string());
  } else if (S_ISREG(about.st_mode)) {
    copy_bytes(from, to);
  } else if (S_ISLNK(about.st_mode)) {
    fs::create_symlink(fs::read_symlink(from), to);
  } else {
    return;
  }
  copy_status(about, from, to);
}

}  // namespace

void copy_tree(const std::string& from, const std::string& to) {
  for (const auto& entry : fs::directory_iterator(from))
    copy_entry(entry.path(), to + "/" + entry.path().filename().string());
}

}  // namespace bootstrap
