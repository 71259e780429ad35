#include "image/half_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>

#include "base/error.h"
#include "base/log.h"

namespace image {
namespace {

std::string without_slashes(std::string path) {
  while (path.size() > 1 && path.ends_with('/')) path.pop_back();
  return path;
}

std::string parent_of(const std::string& path) {
  std::string parent = std::filesystem::path(path).parent_path();
  return parent.empty() ? "." : parent;
}

/// Whether `path` still names what `fd` is open on: its owner may have renamed or removed it before we had
/// the lock.
bool is_still(const std::string& path, int fd) {
  struct stat there, here;
  if (::fstat(fd, &here) != 0) throw base::sys_error("cannot look at {}", path);
  return ::lstat(path.c_str(), &there) == 0 && there.st_dev == here.st_dev && there.st_ino == here.st_ino;
}

}  // namespace

HalfFile::HalfFile(std::string path, Kind kind)
    : path_(without_slashes(std::move(path))), half_path_(path_ + ".half"), kind_(kind) {
  bool directory = kind_ == Kind::kDirectory;
  if (directory && base::exists(path_))
    throw base::error("{} is there already", path_).hint("name another directory, or remove this one");
  while (!fd_) {
    if (directory && ::mkdir(half_path_.c_str(), 0755) != 0 && errno != EEXIST)
      throw base::sys_error("cannot create {}", half_path_);
    base::Fd fd =
        base::open(half_path_, (directory ? O_RDONLY | O_DIRECTORY : O_RDWR | O_CREAT) | O_NOFOLLOW, 0644);
    if (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0)
      throw base::error("{} is being made by another process", path_).hint("wait for it, or end it");
    if (is_still(half_path_, fd.get())) fd_ = std::move(fd);
  }
  // What a killed process left.
  if (!directory) {
    if (::ftruncate(fd_.get(), 0) != 0) throw base::sys_error("cannot empty {}", half_path_);
  } else {
    for (const auto& entry : std::filesystem::directory_iterator(half_path_)) base::remove_tree(entry.path());
  }
}

HalfFile::~HalfFile() {
  if (finished_ || !fd_) return;
  try {
    base::remove_tree(half_path_);
  } catch (const base::Error& error) {
    base::warn("{} stays: {}", half_path_, error.what());
  }
}

void HalfFile::finish() {
  if (::fsync(fd_.get()) != 0) throw base::sys_error("cannot write {} to disk", half_path_);
  unsigned flags = kind_ == Kind::kDirectory ? RENAME_NOREPLACE : 0;
  if (::renameat2(AT_FDCWD, half_path_.c_str(), AT_FDCWD, path_.c_str(), flags) != 0)
    throw base::sys_error("cannot give {} its name", path_);
  finished_ = true;
  base::fsync_path(parent_of(path_));
}

}  // namespace image
