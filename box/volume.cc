#include "box/volume.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/loop.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <format>
#include <memory>
#include <thread>

#include "base/error.h"
#include "base/mount.h"

namespace box {
namespace {

using namespace std::chrono_literals;

constexpr uint64_t kMiB = 1 << 20, kGiB = 1 << 30;

// The end of a box's last process is the end of its mounts, but a moment later.
constexpr auto kLetGo = 10s;

base::Error bad_volume(const std::string& text, const std::string& why) {
  return base::error("'{}' is no volume: {}", text, why)
      .hint("--volume dir, or --volume image:SIZE with a size as 512M or 8G")
      .exit(base::Exit::kUsage);
}

std::string image_of(const Paths& paths) { return paths.volume + "/image"; }

/// The path of a loop device over this file; empty when there is none. By device and inode: its path is
/// another one once the box has a new directory. The numbers are the kernel's (loop(4), LOOP_GET_STATUS64).
std::string loop_over(const struct stat& file) {
  std::unique_ptr<DIR, int (*)(DIR*)> blocks(::opendir("/sys/block"), ::closedir);
  if (!blocks) throw base::sys_error("cannot read /sys/block");
  while (const dirent* entry = ::readdir(blocks.get())) {
    const std::string name = entry->d_name;
    if (!name.starts_with("loop") || !base::exists("/sys/block/" + name + "/loop")) continue;
    const std::string path = "/dev/" + name;
    const base::Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    loop_info64 info = {};
    if (fd && ::ioctl(fd.get(), LOOP_GET_STATUS64, &info) == 0 && info.lo_device == file.st_dev &&
        info.lo_inode == file.st_ino)
      return path;
  }
  return {};
}

void require_unused(const Config& config, const struct stat& file) {
  const auto deadline = std::chrono::steady_clock::now() + kLetGo;
  for (std::string loop; !(loop = loop_over(file)).empty(); std::this_thread::sleep_for(10ms))
    if (std::chrono::steady_clock::now() > deadline)
      throw base::error("the volume of box {} is still in use, on {}", config.name, loop)
          .hint("end the process that has a file of the box open");
}

}  // namespace

uint64_t parse_volume(const std::string& text) {
  if (text == "dir") return 0;
  if (!text.starts_with("image:")) throw bad_volume(text, "it is neither dir nor image:SIZE");
  const std::string size = text.substr(6);
  const size_t digits = std::min(size.find_first_not_of("0123456789"), size.size());
  if (digits == 0 || digits > 9 || digits + 1 != size.size() || (size[digits] != 'M' && size[digits] != 'G'))
    throw bad_volume(text, "its size is not a number with M or G");
  const uint64_t bytes = std::stoull(size) * (size[digits] == 'M' ? kMiB : kGiB);
  if (bytes < kLeastImage || bytes > kMostImage)
    throw bad_volume(text, std::format("images have {} to {}", volume_text(kLeastImage).substr(6),
                                       volume_text(kMostImage).substr(6)));
  return bytes;
}

std::string volume_text(uint64_t image_bytes) {
  if (image_bytes == 0) return "dir";
  return image_bytes % kGiB == 0 ? std::format("image:{}G", image_bytes / kGiB)
                                 : std::format("image:{}M", image_bytes / kMiB);
}

void make_image(const base::Context& context, const Config& config, const Paths& paths) {
  struct statvfs disk{};
  if (::statvfs(paths.volume.c_str(), &disk) != 0) throw base::sys_error("cannot look at {}", paths.volume);
  if (const uint64_t free = uint64_t{disk.f_bavail} * disk.f_frsize; free < config.image_bytes)
    throw base::error("box {} wants a volume of {} MiB, and {} has {} MiB free", config.name,
                      config.image_bytes / kMiB, context.state_dir, free / kMiB)
        .hint("choose a smaller one, or free some");
  const std::string image = image_of(paths), tree = paths.volume + "/tree";
  const base::Fd file = base::open(image, O_RDWR | O_CREAT | O_EXCL);
  if (::ftruncate(file.get(), static_cast<off_t>(config.image_bytes)) != 0)
    throw base::sys_error("cannot make {}", image);
  base::make_directories(tree + "/upper", 0755);
  base::make_directories(tree + "/work", 0700);
  // The file is all holes: what is zero need not be written.
  context.runner.run({.argv = {"mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-m", "0", "-e",
                               "remount-ro", "-E", "assume_storage_prezeroed=1,nodiscard", "-d", tree, image},
                      .timeout = std::chrono::minutes(5)});
  base::remove_tree(tree);
  if (::fsync(file.get()) != 0) throw base::sys_error("cannot write {}", image);
}

void mount_image(const Config& config, const Paths& paths) {
  if (base::is_mount_point(paths.priv)) return;
  const std::string image = image_of(paths);
  struct stat file{};
  // It may have come from another node.
  if (::lstat(image.c_str(), &file) != 0 || !S_ISREG(file.st_mode) ||
      static_cast<uint64_t>(file.st_size) != config.image_bytes)
    throw base::error("the volume of box {} is not there: {} is no file of {} bytes", config.name, image,
                      config.image_bytes);
  require_unused(config, file);
  base::LoopDevice loop = base::LoopDevice::attach(image, /*read_only=*/false);
  // What the box deletes becomes a hole, which a move need not send. Inode tables are zero from the start.
  if (::mount(loop.path().c_str(), paths.priv.c_str(), "ext4", MS_NODEV, "discard,noinit_itable") != 0)
    throw base::sys_error("cannot mount {}", image);
  loop.release();  // autoclear: it goes with the mount
}

void require_images() {
  if (!base::exists("/dev/loop-control"))
    throw base::error("this node has no loop devices, so it cannot mount a volume of kind image")
        .hint("modprobe loop");
}

bool has_image(const Paths& paths) { return base::exists(paths.volume); }

uint64_t image_bytes_on_disk(const Paths& paths) {
  struct stat file{};
  if (!has_image(paths) || ::stat(image_of(paths).c_str(), &file) != 0) return 0;
  return static_cast<uint64_t>(file.st_blocks) * 512;
}

const std::string& sent_directory(const Paths& paths) {
  return has_image(paths) ? paths.volume : paths.upper;
}

void sync_image(const Paths& paths) {
  if (!has_image(paths)) return;
  const base::Fd dir = base::open(paths.upper, O_RDONLY | O_DIRECTORY);
  if (::syncfs(dir.get()) != 0) throw base::sys_error("cannot bring {} to disk", paths.priv);
}

base::Fd open_upper(const Paths& paths) {
  if (!has_image(paths) || base::is_mount_point(paths.priv))
    return base::open(paths.upper, O_RDONLY | O_DIRECTORY);
  // A mount that is nowhere: it goes with this process, whatever ends it.
  const std::string image = image_of(paths);
  const base::LoopDevice loop = base::LoopDevice::attach(image, /*read_only=*/true);
  const base::Fd system(::fsopen("ext4", FSOPEN_CLOEXEC));
  base::Fd mounted;
  // Its journal stays as it is.
  if (system && ::fsconfig(system.get(), FSCONFIG_SET_STRING, "source", loop.path().c_str(), 0) == 0 &&
      ::fsconfig(system.get(), FSCONFIG_SET_FLAG, "ro", nullptr, 0) == 0 &&
      ::fsconfig(system.get(), FSCONFIG_SET_FLAG, "noload", nullptr, 0) == 0 &&
      ::fsconfig(system.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) == 0)
    mounted = base::Fd(::fsmount(system.get(), FSMOUNT_CLOEXEC, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NODEV));
  if (!mounted) throw base::sys_error("cannot read {}", image);
  base::Fd upper(::openat(mounted.get(), "upper", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!upper) throw base::sys_error("cannot read {}", image);
  return upper;
}

}  // namespace box
