#include "image/appliance.h"

#include <guestfs.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include "base/error.h"
#include "base/fd.h"
#include "image/appliance_guard.h"
#include "image/sgdisk.h"

namespace image {
namespace {

using std::chrono::seconds;

// A launch takes 3 to 5 s with KVM, 17 to 27 s without it on 2 cores, and has taken 4 minutes where others
// used them too.
constexpr CallLimit kLaunchKvm = {.all = seconds(300), .boot = seconds(30)};
constexpr CallLimit kLaunchTcg = {.all = seconds(1000)};
constexpr CallLimit kShort = {.all = seconds(300)};
constexpr CallLimit kLong = {.all = seconds(1800)};

constexpr uint64_t kLaunchSteps = 100;

struct Freed {
  void operator()(void* memory) const { ::free(memory); }
};
using Text = std::unique_ptr<char, Freed>;

/// What is known about KVM since this machine's last boot: docs/formats has no word on it, as nobody else
/// reads it.
class KnownAcceleration {
 public:
  explicit KnownAcceleration(const std::string& cache_dir) : file_(cache_dir + "/acceleration") {
    std::string boot = base::read_file("/proc/sys/kernel/random/boot_id");
    without_ = boot + "kvm does not work\n";
    base::make_directories(cache_dir);
  }
  [[nodiscard]] bool try_kvm() const {
    return ::access("/dev/kvm", R_OK | W_OK) == 0 && base::read_file_if_exists(file_) != without_;
  }
  void kvm_failed() const { base::write_file_atomically(file_, without_); }

 private:
  std::string file_, without_;
};

}  // namespace

/// A handle of libguestfs and what watches over it.
struct Appliance::Handle {
  Handle() : guestfs(guestfs_create()) {
    if (guestfs == nullptr) throw base::sys_error("libguestfs has no memory");
    guestfs_set_error_handler(guestfs, nullptr, nullptr);
    guestfs_set_event_callback(guestfs, on_progress, GUESTFS_EVENT_PROGRESS, 0, this);
  }
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;
  ~Handle() {
    guard.begin(kShort);
    guestfs_close(guestfs);
    guard.end();
  }

  static void on_progress(guestfs_h*, void* self, uint64_t, int, int, const char*, size_t,
                          const uint64_t* values, size_t count) {
    auto* handle = static_cast<Handle*>(self);
    if (handle->phase == nullptr || count < 4 || values[3] == 0) return;
    handle->phase->at(handle->total * std::min(values[2], values[3]) / values[3]);
  }

  /// Runs a call that says -1 or nullptr when it fails.
  template <class Body>
  auto call(const std::string& what, CallLimit limit, Body body) {
    base::check_interrupt();
    guard.begin(limit);
    auto result = body(guestfs);
    bool failed = false;
    if constexpr (std::is_pointer_v<decltype(result)>)
      failed = result == nullptr;
    else
      failed = result < 0;
    ApplianceGuard::Why why = guard.end();
    if (!failed && why == ApplianceGuard::Why::kNothing) return result;
    if (why == ApplianceGuard::Why::kInterrupted) base::check_interrupt();
    cut_off = why == ApplianceGuard::Why::kTooLong;
    if (cut_off)
      throw base::error("cannot {}: the appliance of libguestfs took too long, and was ended", what);
    const char* said = guestfs_last_error(guestfs);
    throw base::error("cannot {}: {}", what, said == nullptr ? "libguestfs does not say why" : said);
  }

  guestfs_h* guestfs;
  base::Phase* phase = nullptr;  ///< of the call that runs
  uint64_t total = 0;            ///< of that phase
  bool cut_off = false;          ///< the last call that failed did because it took too long
  ApplianceGuard guard;
};

/// A phase that shows how far libguestfs's calls in it are.
struct Appliance::Shown {
  Shown(base::Progress& progress, Handle& its, std::string_view name, uint64_t total)
      : handle(its), phase(progress, name, total) {
    handle.phase = &phase;
    handle.total = total;
  }
  Shown(const Shown&) = delete;
  Shown& operator=(const Shown&) = delete;
  ~Shown() { handle.phase = nullptr; }

  Handle& handle;
  base::Phase phase;
};

std::string partition_device(const PartitionTable& table, std::string_view name) {
  return std::format("{}{}", kDiskDevice, &find_partition(table, name) - table.partitions.data() + 1);
}

Appliance::Appliance(base::Context& context, const std::string& cache_dir, const std::vector<Drive>& drives)
    : context_(context) {
  KnownAcceleration known(cache_dir);
  auto launch = [&](bool kvm) {
    handle_ = std::make_unique<Handle>();
    guestfs_h* guestfs = handle_->guestfs;
    guestfs_set_backend(guestfs, "direct");
    guestfs_set_pgroup(guestfs, 1);  // the terminal's Ctrl-C is for us
    if (!kvm) guestfs_set_backend_setting(guestfs, "force_tcg", "1");
    for (const Drive& drive : drives) {
      std::string label = std::filesystem::path(drive.device).filename();
      handle_->call("add " + drive.path, kShort, [&](guestfs_h* g) {
        return guestfs_add_drive_opts(g, drive.path.c_str(), GUESTFS_ADD_DRIVE_OPTS_FORMAT, "raw",
                                      GUESTFS_ADD_DRIVE_OPTS_READONLY, drive.read_only ? 1 : 0,
                                      GUESTFS_ADD_DRIVE_OPTS_LABEL, label.c_str(), -1);
      });
    }
    Shown shown(context_.progress, *handle_, kvm ? "appliance" : "appliance, without KVM", kLaunchSteps);
    handle_->call("start the appliance of libguestfs", kvm ? kLaunchKvm : kLaunchTcg, guestfs_launch);
  };
  if (known.try_kvm()) {
    try {
      launch(true);
      return;
    } catch (const base::Error& error) {
      if (!handle_ || !handle_->cut_off) throw;
      context_.progress.note(
          "/dev/kvm is here, and no machine starts with it: it is not used until the next boot");
      known.kvm_failed();
    }
  }
  try {
    launch(false);
  } catch (base::Error& error) {
    if (error.exit() == base::Exit::kInterrupted) throw;
    throw base::Error(error).hint(
        "libguestfs needs qemu-system-x86 and a kernel in /boot that may be read (linux-image-cloud-amd64); "
        "LIBGUESTFS_DEBUG=1 in the environment shows what it does");
  }
}

Appliance::~Appliance() = default;

void Appliance::close() {
  handle_->call("put the drives of libguestfs's appliance on disk", kLong, guestfs_shutdown);
  handle_.reset();
}

void Appliance::write_table(const std::string& device, const PartitionTable& table) {
  shell(sgdisk_writing(table) + " " + device);
  handle_->call("read the partition table", kShort,
                [&](guestfs_h* g) { return guestfs_blockdev_rereadpt(g, device.c_str()); });
  shell("udevadm settle");  // what we call the partitions are links that udev makes
}

PartitionTable Appliance::read_table(const std::string& device) {
  // As many as the appliance's kernel knows.
  std::unique_ptr<guestfs_partition_list, decltype(&guestfs_free_partition_list)> list(
      handle_->call("list the partitions", kShort,
                    [&](guestfs_h* g) { return guestfs_part_list(g, device.c_str()); }),
      guestfs_free_partition_list);
  return parse_sgdisk(shell(sgdisk_printing(list->len) + " " + device));
}

std::string Appliance::read(const std::string& device, uint64_t start, uint64_t bytes) {
  size_t got = 0;
  Text content(handle_->call("read " + device, kShort, [&](guestfs_h* g) {
    return guestfs_pread_device(g, device.c_str(), static_cast<int>(bytes), static_cast<int64_t>(start),
                                &got);
  }));
  if (got != bytes) throw base::error("{} has fewer bytes than {}", device, start + bytes);
  return {content.get(), got};
}

void Appliance::write(const std::string& device, uint64_t start, const std::string& bytes) {
  auto written = handle_->call("write " + device, kShort, [&](guestfs_h* g) {
    return guestfs_pwrite_device(g, device.c_str(), bytes.data(), bytes.size(), static_cast<int64_t>(start));
  });
  if (static_cast<size_t>(written) != bytes.size())
    throw base::error("{} did not take all that was written", device);
}

void Appliance::copy(const std::string& from, const std::string& to, uint64_t bytes) {
  Shown shown(context_.progress, *handle_, "copy", bytes);
  handle_->call(std::format("copy {} to {}", from, to), kLong, [&](guestfs_h* g) {
    return guestfs_copy_device_to_device(g, from.c_str(), to.c_str(), GUESTFS_COPY_DEVICE_TO_DEVICE_SIZE,
                                         static_cast<int64_t>(bytes), GUESTFS_COPY_DEVICE_TO_DEVICE_SPARSE, 1,
                                         -1);
  });
}

std::string Appliance::file_system(const std::string& device) {
  return Text(handle_->call("look at " + device, kShort,
                            [&](guestfs_h* g) { return guestfs_vfs_type(g, device.c_str()); }))
      .get();
}

std::string Appliance::uuid(const std::string& device) {
  return Text(handle_->call("look at " + device, kShort,
                            [&](guestfs_h* g) { return guestfs_vfs_uuid(g, device.c_str()); }))
      .get();
}

std::string Appliance::label(const std::string& device) {
  return Text(handle_->call("look at " + device, kShort,
                            [&](guestfs_h* g) { return guestfs_vfs_label(g, device.c_str()); }))
      .get();
}

void Appliance::make_fat(const std::string& device, const std::string& label) {
  handle_->call("make a FAT", kShort, [&](guestfs_h* g) {
    return guestfs_mkfs_opts(g, "vfat", device.c_str(), GUESTFS_MKFS_OPTS_LABEL, label.c_str(), -1);
  });
}

void Appliance::make_ext4(const std::string& device, const std::string& label, const std::string& uuid,
                          int64_t bytes_per_inode) {
  handle_->call("make an ext4", kLong, [&](guestfs_h* g) {
    return guestfs_mke2fs(g, device.c_str(), GUESTFS_MKE2FS_FSTYPE, "ext4", GUESTFS_MKE2FS_LABEL,
                          label.c_str(), GUESTFS_MKE2FS_UUID, uuid.c_str(), GUESTFS_MKE2FS_BLOCKSIZE,
                          int64_t{4096}, GUESTFS_MKE2FS_INODESIZE, int64_t{256}, GUESTFS_MKE2FS_BYTESPERINODE,
                          bytes_per_inode, -1);
  });
}

void Appliance::make_xfs(const std::string& device, const std::string& label, const std::string& uuid) {
  const char* feature[] = {"xfs", nullptr};
  if (guestfs_feature_available(handle_->guestfs, const_cast<char**>(feature)) != 1)
    throw base::error("libguestfs here cannot make an XFS").hint("install the package libguestfs-xfs");
  handle_->call("make an XFS", kLong, [&](guestfs_h* g) {
    if (guestfs_mkfs_opts(g, "xfs", device.c_str(), GUESTFS_MKFS_OPTS_LABEL, label.c_str(), -1) < 0)
      return -1;
    return guestfs_set_uuid(g, device.c_str(), uuid.c_str());
  });
}

void Appliance::mount(const std::string& device, bool read_only) {
  handle_->call("mount " + device, kShort, [&](guestfs_h* g) {
    return read_only ? guestfs_mount_ro(g, device.c_str(), "/") : guestfs_mount(g, device.c_str(), "/");
  });
}

void Appliance::unmount() { handle_->call("unmount", kLong, guestfs_umount_all); }

void Appliance::make_directory(const std::string& path) {
  handle_->call("make the directory " + path, kShort,
                [&](guestfs_h* g) { return guestfs_mkdir_p(g, path.c_str()); });
}

void Appliance::write_file(const std::string& path, const std::string& content) {
  handle_->call("write " + path, kShort,
                [&](guestfs_h* g) { return guestfs_write(g, path.c_str(), content.data(), content.size()); });
}

void Appliance::upload(const std::string& file, const std::string& path) {
  handle_->call("write " + path, kLong,
                [&](guestfs_h* g) { return guestfs_upload(g, file.c_str(), path.c_str()); });
}

void Appliance::set_mode(const std::string& path, uint32_t mode) {
  handle_->call("set the mode of " + path, kShort,
                [&](guestfs_h* g) { return guestfs_chmod(g, static_cast<int>(mode), path.c_str()); });
}

bool Appliance::exists(const std::string& path) {
  return handle_->call("look at " + path, kShort,
                       [&](guestfs_h* g) { return guestfs_exists(g, path.c_str()); }) == 1;
}

std::string Appliance::read_file(const std::string& path) {
  size_t size = 0;
  Text content(handle_->call("read " + path, kShort,
                             [&](guestfs_h* g) { return guestfs_read_file(g, path.c_str(), &size); }));
  return {content.get(), size};
}

std::string Appliance::sha256(const std::string& path) {
  return Text(handle_->call("read " + path, kLong,
                            [&](guestfs_h* g) { return guestfs_checksum(g, "sha256", path.c_str()); }))
      .get();
}

std::string Appliance::shell(const std::string& line) {
  std::string copy = line;
  char* words[] = {copy.data(), nullptr};
  return Text(handle_->call(std::format("run {} in the appliance", line), kLong,
                            [&](guestfs_h* g) { return guestfs_debug(g, "sh", words); }))
      .get();
}

}  // namespace image
