#include "base/mount.h"

#include <fcntl.h>
#include <linux/loop.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <sstream>

#include "base/error.h"
#include "base/log.h"

namespace base {
namespace {

/// As mountinfo names it. The last part is not looked at: it may be a mount that hangs.
std::string absolute(const std::string& path) {
  auto plain = std::filesystem::absolute(path).lexically_normal();
  if (!plain.has_filename()) plain = plain.parent_path();
  return std::filesystem::weakly_canonical(plain.parent_path()) / plain.filename();
}

/// Space, tab, newline and backslash stand in mountinfo as \040, \011, \012 and \134 (proc(5)).
std::string unescaped(std::string_view text) {
  std::string plain;
  for (size_t i = 0; i < text.size(); ++i) {
    bool octal = text[i] == '\\' && i + 3 < text.size();
    plain += octal ? static_cast<char>(std::stoi(std::string(text.substr(i + 1, 3)), nullptr, 8)) : text[i];
    if (octal) i += 3;
  }
  return plain;
}

std::vector<MountInfo> parse_mountinfo(const std::string& text) {
  std::vector<MountInfo> mounts;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    std::istringstream fields(line);
    std::string id, parent, device, root, point;
    fields >> id >> parent >> device >> root >> point;
    const size_t dash = line.find(" - ");
    const std::string type =
        dash == std::string::npos ? "" : line.substr(dash + 3, line.find(' ', dash + 3) - dash - 3);
    mounts.push_back({id, device, unescaped(root), unescaped(point), type});
  }
  return mounts;
}

/// Every mount point that this thread sees, the oldest first.
std::vector<std::string> mount_points() {
  std::vector<std::string> points;
  for (auto& mount : parse_mountinfo(read_file("/proc/thread-self/mountinfo")))
    points.push_back(std::move(mount.point));
  return points;
}

/// Runs a destructor's work: what fails there can only be told.
template <class Work>
void quietly(Work work) noexcept {
  try {
    work();
  } catch (const std::exception& e) {
    warn("{}", e.what());
  }
}

void unmount_lazily(const std::string& target) {
  if (::umount2(target.c_str(), MNT_DETACH | UMOUNT_NOFOLLOW) != 0)
    throw sys_error("cannot unmount {}", target);
}

}  // namespace

std::optional<std::vector<MountInfo>> mounts_of(pid_t pid) {
  try {
    const auto text = read_file_if_exists("/proc/" + std::to_string(pid) + "/mountinfo");
    return text ? std::optional(parse_mountinfo(*text)) : std::nullopt;
  } catch (const Error& e) {
    if (e.err() == EINVAL) return std::nullopt;  // a zombie has no namespace (Linux, fs/proc_namespace.c)
    throw;
  }
}

Mount Mount::make(const std::string& source, const std::string& target, const std::string& type,
                  unsigned long flags, const std::string& data) {
  if (::mount(source.c_str(), target.c_str(), type.c_str(), flags, data.c_str()) != 0)
    throw sys_error("cannot mount {} on {}{}", source, target, type.empty() ? "" : " as " + type);
  return Mount(target);
}

Mount Mount::bind(const std::string& source, const std::string& target) {
  return make(source, target, "", MS_BIND);
}

Mount::Mount(Mount&& other) noexcept : target_(std::exchange(other.target_, {})) {}

Mount& Mount::operator=(Mount&& other) noexcept {
  std::swap(target_, other.target_);
  return *this;
}

Mount::~Mount() {
  if (!target_.empty()) quietly([&] { unmount_lazily(target_); });
}

void Mount::unmount() {
  if (target_.empty()) return;
  if (::umount2(target_.c_str(), UMOUNT_NOFOLLOW) != 0) throw sys_error("cannot unmount {}", target_);
  target_.clear();
}

bool is_mount_point(const std::string& path) { return std::ranges::contains(mount_points(), absolute(path)); }

void unmount_if_mounted(const std::string& path) {
  if (is_mount_point(path)) unmount_lazily(path);
}

std::vector<std::string> mounts_below(const std::string& path) {
  std::string top = absolute(path);
  std::vector<std::string> below = mount_points();
  std::erase_if(below, [&](const std::string& point) {
    return point != top && !point.starts_with(top.ends_with('/') ? top : top + "/");
  });
  std::ranges::stable_sort(below, std::ranges::greater(), &std::string::size);
  return below;
}

namespace {

/// Opens /dev/loopN, which a /dev that is not the kernel's own may lack. An empty Fd: somebody is just
/// detaching it.
Fd open_loop(int number, std::string& path) {
  path = std::format("/dev/loop{}", number);
  if (!exists(path)) {
    unsigned major = 7, minor = static_cast<unsigned>(number);
    if (auto device = read_file_if_exists(std::format("/sys/block/loop{}/dev", number)))
      std::sscanf(device->c_str(), "%u:%u", &major, &minor);
    if (::mknod(path.c_str(), S_IFBLK | 0600, ::makedev(major, minor)) != 0 && errno != EEXIST)
      throw sys_error("cannot create {}", path);
  }
  Fd device(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  if (!device && errno != ENXIO) throw sys_error("cannot open {}", path);
  return device;
}

}  // namespace

LoopDevice LoopDevice::attach(const std::string& file, bool read_only) {
  Fd backing = open(file, read_only ? O_RDONLY : O_RDWR);
  Fd control = open("/dev/loop-control", O_RDWR);
  loop_config config = {};
  config.fd = static_cast<uint32_t>(backing.get());
  config.info.lo_flags = LO_FLAGS_DIRECT_IO | LO_FLAGS_AUTOCLEAR;
  if (read_only) config.info.lo_flags |= LO_FLAGS_READ_ONLY;
  std::strncpy(reinterpret_cast<char*>(config.info.lo_file_name), file.c_str(), LO_NAME_SIZE - 1);
  constexpr int kAttempts = 1000;  // others ask for free devices at the same time
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    int number = ::ioctl(control.get(), LOOP_CTL_GET_FREE);
    if (number < 0) throw sys_error("cannot find a free loop device");
    std::string path;
    Fd device = open_loop(number, path);
    if (device && ::ioctl(device.get(), LOOP_CONFIGURE, &config) == 0)
      return {std::move(path), std::move(device)};
    if (device && errno != EBUSY) throw sys_error("cannot attach {} to {}", file, path);
    ::usleep(200);
  }
  throw Error("cannot attach " + file + " to a loop device", EBUSY);
}

LoopDevice::LoopDevice(LoopDevice&& other) noexcept
    : path_(std::exchange(other.path_, {})), device_(std::move(other.device_)) {}

LoopDevice& LoopDevice::operator=(LoopDevice&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(device_, other.device_);
  return *this;
}

LoopDevice::~LoopDevice() {
  quietly([&] { detach(); });
}

void LoopDevice::detach() {
  if (path_.empty()) return;
  if (::ioctl(device_.get(), LOOP_CLR_FD) != 0 && errno != ENXIO) throw sys_error("cannot detach {}", path_);
  release();
}

TempDir TempDir::make(const std::string& parent, const std::string& prefix) {
  std::string path = parent + "/" + prefix + "XXXXXX";
  if (::mkdtemp(path.data()) == nullptr) throw sys_error("cannot create a directory in {}", parent);
  return TempDir(std::move(path));
}

TempDir::TempDir(TempDir&& other) noexcept : path_(std::exchange(other.path_, {})) {}

TempDir& TempDir::operator=(TempDir&& other) noexcept {
  std::swap(path_, other.path_);
  return *this;
}

TempDir::~TempDir() {
  if (path_.empty()) return;
  quietly([&] {
    for (const std::string& point : mounts_below(path_)) unmount_lazily(point);
    remove_tree(path_);
  });
}

}  // namespace base
