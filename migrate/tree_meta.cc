#include "migrate/tree_meta.h"

#include <fcntl.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstring>
#include <set>
#include <vector>

#include "base/error.h"
#include "migrate/tree_walk.h"

namespace migrate {
namespace {

using base::error;

std::span<char> scratch() {
  static thread_local std::vector<char> buffer(kMaxXattrValue);
  return buffer;
}

/// All names; nullopt with errno set: the file has vanished.
std::optional<std::string> list_names(const XattrPlace& place, const std::string& path) {
  ssize_t got = place.list(scratch());
  if (got >= 0) return std::string(scratch().data(), static_cast<size_t>(got));
  if (errno == ENOTSUP) return std::string();
  if (errno == ENOENT || errno == ENOTDIR) return std::nullopt;
  throw base::sys_error("cannot list the extended attributes of {}", path);
}

/// "U+1", as overlayfs writes it (ovl_set_nlink_upper): relative to the upper file's st_nlink.
std::optional<long> parse_overlay_nlink(std::string_view text) {
  if (text.size() < 3 || text[0] != 'U') return std::nullopt;
  text.remove_prefix(text[1] == '+' ? 2 : 1);
  long number = 0;
  auto [end, failed] = std::from_chars(text.data(), text.data() + text.size(), number);
  return failed == std::errc() && end == text.data() + text.size() ? std::optional(number) : std::nullopt;
}

/// What overlayfs would follow: one name, or a path from the root without "..".
bool redirect_is_sane(std::string_view value) {
  if (!value.starts_with('/'))
    return value.find('/') == value.npos && !value.empty() && value != "." && value != "..";
  while (!value.empty()) {
    value.remove_prefix(1);
    std::string_view part = value.substr(0, value.find('/'));
    if (part.empty() || part == "." || part == "..") return false;
    value.remove_prefix(part.size());
  }
  return true;
}

timespec take_time(RecordReader& in) {
  timespec time = {.tv_sec = static_cast<time_t>(in.u64()), .tv_nsec = static_cast<long>(in.u32())};
  if (time.tv_nsec >= kNanoseconds) throw bad_tree("a time has {} nanoseconds", time.tv_nsec);
  return time;
}

/// Sets what the stream names, until its empty name. Returns the names.
std::set<std::string> take_xattrs(RecordReader& in, const XattrPlace& place, const std::string& path) {
  std::set<std::string> names;
  size_t names_size = 0;
  while (uint8_t length = in.u8()) {
    std::string name = in.text(length);
    if (name.find('\0') != name.npos || !xattr_travels(name))
      throw bad_tree("the extended attribute {} at {} does not travel", shown_name(name), path);
    names_size += name.size() + 1;
    if (names_size > kMaxXattrNames)
      throw bad_tree("{} has more extended attributes than a file can have", path);
    size_t size = in.u32();
    if (size > kMaxXattrValue) throw bad_tree("an extended attribute of {} has {} bytes", path, size);
    std::string value = in.text(size);
    if (name == "trusted.overlay.redirect" && !redirect_is_sane(value))
      throw bad_tree("{} is redirected to {}", path, shown_name(value));
    if (place.set(name.c_str(), value) != 0) {
      if (errno == ENOSPC || errno == EDQUOT) throw_cannot_write(path);
      throw base::sys_error("cannot set the extended attribute {} of {}", shown_name(name), path);
    }
    names.insert(std::move(name));
  }
  return names;
}

void remove_others(const XattrPlace& place, const std::set<std::string>& keep, const std::string& path) {
  auto present = list_names(place, path);
  if (!present) throw base::sys_error("cannot list the extended attributes of {}", path);
  for (size_t at = 0; at < present->size(); at += std::strlen(&(*present)[at]) + 1) {
    const char* name = &(*present)[at];
    bool ours = xattr_travels(name) || std::string_view(name).starts_with("trusted.overlay.");
    if (ours && !keep.contains(name) && place.remove(name) != 0 && errno != ENODATA)
      throw base::sys_error("cannot remove the extended attribute {} of {}", shown_name(name), path);
  }
}

}  // namespace

ssize_t XattrPlace::list(std::span<char> out) const {
  return fd_ >= 0 ? ::flistxattr(fd_, out.data(), out.size())
                  : ::llistxattr(path_.c_str(), out.data(), out.size());
}
ssize_t XattrPlace::get(const char* name, std::span<char> out) const {
  return fd_ >= 0 ? ::fgetxattr(fd_, name, out.data(), out.size())
                  : ::lgetxattr(path_.c_str(), name, out.data(), out.size());
}
int XattrPlace::set(const char* name, std::string_view value) const {
  return fd_ >= 0 ? ::fsetxattr(fd_, name, value.data(), value.size(), 0)
                  : ::lsetxattr(path_.c_str(), name, value.data(), value.size(), 0);
}
int XattrPlace::remove(const char* name) const {
  return fd_ >= 0 ? ::fremovexattr(fd_, name) : ::lremovexattr(path_.c_str(), name);
}

void put_times(std::string& out, const struct stat& status) {
  for (const timespec& time : {status.st_atim, status.st_mtim}) {
    put(out, static_cast<uint64_t>(time.tv_sec));
    put(out, static_cast<uint32_t>(time.tv_nsec));
  }
}

std::optional<Metadata> read_metadata(const XattrPlace& place, const struct stat& status,
                                      const std::string& path) {
  Metadata metadata;
  put(metadata.wire, static_cast<uint32_t>(status.st_mode & 07777));
  put(metadata.wire, static_cast<uint32_t>(status.st_uid));
  put(metadata.wire, static_cast<uint32_t>(status.st_gid));
  put_times(metadata.wire, status);
  auto names = list_names(place, path);
  if (!names) return std::nullopt;
  for (size_t at = 0; at < names->size(); at += std::strlen(&(*names)[at]) + 1) {
    const char* name = &(*names)[at];
    if (std::string_view(name) == "trusted.overlay.metacopy")
      throw error("{} holds no content of its own, only metadata (overlay.metacopy)", path)
          .hint("mount boxes with metacopy=off, and write to the file once");
    bool nlink = std::string_view(name) == "trusted.overlay.nlink";
    if (!nlink && !xattr_travels(name)) continue;
    ssize_t got = place.get(name, scratch());
    if (got < 0 && errno == ENODATA) continue;  // removed meanwhile; ctime tells the next round
    if (got < 0 && errno == ENOENT) return std::nullopt;
    if (got < 0) throw base::sys_error("cannot read the extended attribute {} of {}", shown_name(name), path);
    std::string_view value(scratch().data(), static_cast<size_t>(got));
    if (nlink) {
      metadata.overlay_nlink = parse_overlay_nlink(value);
      continue;
    }
    put(metadata.wire, static_cast<uint8_t>(std::strlen(name)));
    metadata.wire += name;
    put(metadata.wire, static_cast<uint32_t>(value.size()));
    metadata.wire += value;
  }
  put(metadata.wire, uint8_t{0});
  return metadata;
}

Times take_times(RecordReader& in) {
  timespec atime = take_time(in);
  timespec mtime = take_time(in);
  return {atime, mtime};
}

void apply_metadata(RecordReader& in, int fd, const char* name, mode_t type, bool existed,
                    const std::string& path) {
  uint32_t mode = in.u32(), uid = in.u32(), gid = in.u32();
  Times times = take_times(in);
  if (mode > 07777) throw bad_tree("{} has mode {:o}", path, mode);
  if (uid == UINT32_MAX || gid == UINT32_MAX) throw bad_tree("{} has the owner {}:{}", path, uid, gid);

  // chown clears set-user-ID and security.capability; an ACL sets mode bits: so in this order,
  // and the times at the end.
  const char* at = name ? name : "";
  int flags = AT_SYMLINK_NOFOLLOW | (name ? 0 : AT_EMPTY_PATH);
  if (::fchownat(fd, at, uid, gid, flags) != 0) throw_cannot_write(path);
  XattrPlace place = name ? XattrPlace(fd, name) : XattrPlace(fd);
  auto names = take_xattrs(in, place, path);
  if (existed) remove_others(place, names, path);
  int failed =
      name ? (type == S_IFLNK ? 0 : ::fchmodat(fd, name, mode, AT_SYMLINK_NOFOLLOW)) : ::fchmod(fd, mode);
  if (failed != 0) throw_cannot_write(path);
  if ((name ? ::utimensat(fd, name, times.data(), AT_SYMLINK_NOFOLLOW) : ::futimens(fd, times.data())) != 0)
    throw_cannot_write(path);
}

void throw_cannot_write(const std::string& path) {
  int err = errno;
  if (err == ENOSPC) throw error("cannot write {}: the disk of this node is full", path);
  if (err == EDQUOT) throw error("cannot write {}: the box's disk quota is used up", path);
  throw base::Error(std::format("cannot write {}", path), err);
}

}  // namespace migrate
