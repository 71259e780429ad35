#include "bootstrap/initrd.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/mount.h>
#include <sys/statfs.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <filesystem>
#include <format>
#include <thread>

#include "base/error.h"
#include "base/fd.h"
#include "base/mount.h"
#include "bootstrap/console.h"
#include "bootstrap/disks.h"
#include "bootstrap/kernel_line.h"
#include "bootstrap/modules.h"
#include "bootstrap/verity.h"

namespace bootstrap {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;

constexpr auto kDiskTimeout = 30s;
constexpr auto kPoll = 50ms;

struct KernelMount {
  const char* type;
  const char* where;
  unsigned long flags;
  const char* data;
};
constexpr auto kKernelMounts = std::to_array<KernelMount>({
    {"proc", "/proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, ""},
    {"sysfs", "/sys", MS_NOSUID | MS_NODEV | MS_NOEXEC, ""},
    {"devtmpfs", "/dev", MS_NOSUID, "mode=0755"},
    {"tmpfs", "/run", MS_NOSUID | MS_NODEV, "mode=0755,size=20%"},
});

void mount_or_throw(const std::string& source, const std::string& target, const std::string& type,
                    unsigned long flags, const std::string& data = {}) {
  if (::mount(source.c_str(), target.c_str(), type.c_str(), flags, data.c_str()) != 0)
    throw base::sys_error("cannot mount {} on {} as {}", source, target, type);
}

/// The kernel has none for us where the initrd has no /dev/console of its own.
void open_standard_streams() {
  base::Fd console(::open("/dev/console", O_RDWR | O_NOCTTY | O_CLOEXEC));
  if (!console) console = base::open("/dev/null", O_RDWR);
  base::Fd copy = base::duplicate(console.get());  // 3 at least
  console.close();
  for (int stream = 0; stream < 3; ++stream)
    if (::dup2(copy.get(), stream) < 0) throw base::sys_error("cannot open the standard streams");
}

void mount_kernel_file_systems() {
  for (const KernelMount& mount : kKernelMounts) {
    base::make_directories(mount.where);
    mount_or_throw(mount.type, mount.where, mount.type, mount.flags, mount.data);
  }
  open_standard_streams();
  // Should this process end, or the kernel fail: the loader gets to count. systemd leaves it as it is.
  base::write_file("/proc/sys/kernel/panic", std::to_string(kRestartSeconds));
}

void load_modules(const InitrdPaths& paths) {
  struct utsname kernel = {};
  if (::uname(&kernel) != 0) throw base::sys_error("cannot ask for the kernel's release");
  auto list = base::read_file_if_exists(paths.modules);
  if (!list) return;
  for (const std::string& path : module_paths(*list, paths.module_directory + "/" + kernel.release)) {
    try {
      load_module(path);
    } catch (const base::Error& error) {
      say("{}", error.message());  // whether it is missed, the search for the disk will tell
    }
  }
}

Partition wait_for_root(std::string_view slot) {
  const std::string name = root_name(slot);
  auto deadline = std::chrono::steady_clock::now() + kDiskTimeout;
  while (true) {
    std::vector<Partition> all = partitions();
    if (auto found = find_partition(all, name)) {
      if (std::string several = about_several(all, name); !several.empty()) say("{}", several);
      return *found;
    }
    if (std::chrono::steady_clock::now() >= deadline) {
      std::string seen;
      for (const Partition& partition : all)
        seen += std::format("{}{} ({})", seen.empty() ? "" : ", ", partition.device, partition.name);
      throw base::error("no disk with a partition {} came up within {} seconds; partitions with a name: {}",
                        name, std::chrono::seconds(kDiskTimeout).count(), seen.empty() ? "none" : seen)
          .hint("the disk is missing or empty, or its driver is not in this image");
    }
    std::this_thread::sleep_for(kPoll);
  }
}

void mount_root(const InitrdPaths& paths, const std::string& from, const KernelLine& facts) {
  std::string device = open_verity(from, "root", facts.root_hash, facts.hash_offset);
  base::make_directories(paths.root);
  mount_or_throw(device, paths.root, "erofs", MS_RDONLY);
}

void mount_slot(const InitrdPaths& paths, const KernelLine& facts) {
  Partition partition = wait_for_root(image::name(*facts.slot));
  base::in_context(std::format("opening {} ({})", partition.device, partition.name),
                   [&] { mount_root(paths, "/dev/" + partition.device, facts); });
}

/// The file has no name any more after switch_root(), and its memory is kept by the loop device.
void mount_network_root(const InitrdPaths& paths, const KernelLine& facts) {
  if (!base::exists(paths.network_root))
    throw base::error("the boot server has sent no root: there is no {}", paths.network_root)
        .hint("boot.ipxe of the image names root.img as an initrd of its own");
  base::in_context("opening " + paths.network_root, [&] {
    base::LoopDevice loop = base::LoopDevice::attach(paths.network_root, /*read_only=*/true);
    mount_root(paths, loop.path(), facts);
    loop.release();
  });
}

void check_is_initrd() {
  struct statfs about = {};
  if (::statfs("/", &about) != 0) throw base::sys_error("cannot look at /");
  if (about.f_type != RAMFS_MAGIC && about.f_type != TMPFS_MAGIC)
    throw base::error("this is not an initrd: / is no file system in memory, so nothing in it is removed");
}

}  // namespace

void switch_root(const std::string& root) {
  check_is_initrd();
  for (const KernelMount& mount : kKernelMounts)
    if (::mount(mount.where, (root + mount.where).c_str(), nullptr, MS_MOVE, nullptr) != 0)
      throw base::sys_error("cannot move {} into {}", mount.where, root);
  // Gives the initrd's memory back; this program's stays until it is replaced.
  for (const auto& entry : fs::directory_iterator("/"))
    if (entry.path() != root) base::remove_tree(entry.path());
  if (::chdir(root.c_str()) != 0 || ::mount(".", "/", nullptr, MS_MOVE, nullptr) != 0 || ::chroot(".") != 0 ||
      ::chdir("/") != 0)
    throw base::sys_error("cannot make {} the root", root);
}

void run_initrd() {
  const InitrdPaths paths;
  mount_kernel_file_systems();
  KernelLine facts = parse_kernel_line(base::read_file("/proc/cmdline"));
  load_modules(paths);
  if (facts.slot)
    mount_slot(paths, facts);
  else
    mount_network_root(paths, facts);
  switch_root(paths.root);

  const char* argv[] = {"/usr/bin/drover-node", "bootstrap", "start", nullptr};
  const char* env[] = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8", "TERM=linux", nullptr};
  ::execve(argv[0], const_cast<char**>(argv), const_cast<char**>(env));
  throw base::sys_error("cannot start {} in the root", argv[0]);
}

}  // namespace bootstrap
