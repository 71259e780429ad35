#include "box/rootfs.h"

#include <fcntl.h>
#include <linux/securebits.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <exception>
#include <set>
#include <thread>

#include "base/error.h"
#include "base/log.h"
#include "base/mount.h"
#include "box/volume.h"
#include "templates/store.h"

namespace box {
namespace {

std::string layer_dir(const base::Context& context, const std::string& digest) {
  return context.run_dir + "/layers/" + digest.substr(digest.find(':') + 1);
}

/// A user namespace whose only use is its id map: ids 0 … 65535 are id_base and up.
base::Fd id_map(uint32_t id_base) {
  base::Pipe ready = base::make_pipe(), done = base::make_pipe();
  pid_t child = ::fork();
  if (child < 0) throw base::sys_error("cannot start a process");
  if (child == 0) {
    char c = ::unshare(CLONE_NEWUSER) == 0 ? 'y' : 'n';
    if (::write(ready.write.get(), &c, 1) != 1) ::_exit(1);
    // Ends by end-of-file, when the parent closes its end or dies.
    ::close(done.write.get());
    ::_exit(::read(done.read.get(), &c, 1) == 0 ? 0 : 1);
  }
  struct Reaper {
    pid_t pid;
    base::Fd& hold;
    ~Reaper() {
      hold.close();
      ::waitpid(pid, nullptr, 0);
    }
  } reaper{child, done.write};
  std::byte answer{};
  base::read_full(ready.read.get(), {&answer, 1});
  if (answer != std::byte{'y'})
    throw base::error("cannot make a user namespace on this node")
        .hint("look at `sysctl user.max_user_namespaces`");
  const std::string proc = "/proc/" + std::to_string(child);
  const std::string map = "0 " + std::to_string(id_base) + " " + std::to_string(kIdCount);
  base::write_file(proc + "/uid_map", map);
  base::write_file(proc + "/gid_map", map);
  return base::open(proc + "/ns/user", O_RDONLY);
}

/// Clones the mount at `from` to `to`, with its files' ids shifted as `map` says.
base::Mount clone_shifted(const std::string& from, const std::string& to, int map) {
  base::Fd tree(static_cast<int>(
      ::syscall(SYS_open_tree, AT_FDCWD, from.c_str(), OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC)));
  if (!tree) throw base::sys_error("cannot clone the mount of {}", from);
  mount_attr attr{};
  attr.attr_set = MOUNT_ATTR_IDMAP;
  attr.userns_fd = static_cast<uint64_t>(map);
  if (::syscall(SYS_mount_setattr, tree.get(), "", AT_EMPTY_PATH, &attr, sizeof attr) != 0)
    throw base::sys_error("cannot shift the ids of {}", from)
        .hint(
            "the file system below must support id-mapped mounts: ext4, xfs, btrfs, or Linux 6.3 for tmpfs");
  base::make_directories(to, 0711);
  if (::syscall(SYS_move_mount, tree.get(), "", AT_FDCWD, to.c_str(), MOVE_MOUNT_F_EMPTY_PATH) != 0)
    throw base::sys_error("cannot mount {}", to);
  return base::Mount::adopt(to);
}

/// Runs `body` in a thread whose user and group are `id`, with all capabilities kept. The raw
/// system calls change this thread only; glibc's wrappers would change all of them.
template <class Body>
void as_id(uint32_t id, Body body) {
  std::exception_ptr failure;
  std::thread([&] {
    try {
      if (::prctl(PR_SET_SECUREBITS, SECBIT_KEEP_CAPS | SECBIT_NO_SETUID_FIXUP) != 0 ||
          ::syscall(SYS_setresgid, id, id, id) != 0 || ::syscall(SYS_setresuid, id, id, id) != 0)
        throw base::sys_error("cannot take on id {}", id);
      body();
    } catch (...) {
      failure = std::current_exception();
    }
  }).join();
  if (failure) std::rethrow_exception(failure);
}

/// Mounts a layer where all boxes of this node share it. With direct I/O its pages are cached
/// once, not once for the file and once for the mount.
void mount_layer(const base::Context& context, const templates::Store& store, const templates::Layer& layer) {
  const std::string target = layer_dir(context, layer.digest);
  if (base::is_mount_point(target)) return;
  if (!store.has_layer(layer))
    throw base::error("layer {} is not on this node", layer.digest)
        .hint("`drover template copy` brings a template to a node");
  base::make_directories(target, 0711);
  const std::string image = store.layer_path(layer.digest);
  const unsigned long flags = MS_RDONLY | MS_NODEV;
  if (::mount(image.c_str(), target.c_str(), "erofs", flags, "directio") == 0) return;
  // Linux before 6.12 mounts erofs from block devices only.
  if (errno != ENOTBLK && errno != EINVAL) throw base::sys_error("cannot mount layer {}", layer.digest);
  base::LoopDevice loop = base::LoopDevice::attach(image, /*read_only=*/true);
  if (::mount(loop.path().c_str(), target.c_str(), "erofs", flags, nullptr) != 0)
    throw base::sys_error("cannot mount layer {}", layer.digest);
  loop.release();  // autoclear: it goes with the mount
}

/// Under the lock.
void mount_all_layers(const base::Context& context, const Config& config) {
  const templates::Store store(context.state_dir);
  for (const auto& layer : config.layers) mount_layer(context, store, layer);
}

}  // namespace

void make_private_layer(const Config& config, const Paths& paths) {
  base::make_directories(paths.priv, 0700);
  if (config.image_bytes != 0) return base::make_directories(paths.volume, 0700);
  base::make_directories(paths.upper, 0755);
  base::make_directories(paths.priv + "/work", 0700);
}

std::vector<std::string> mount_layers(const base::Context& context, const Config& config) {
  const Lock lock = lock_layers(context);
  mount_all_layers(context, config);
  std::vector<std::string> top_first;
  for (const auto& layer : config.layers)
    top_first.insert(top_first.begin(), layer_dir(context, layer.digest));
  return top_first;
}

void mount_root(const base::Context& context, const Config& config, const Paths& paths) {
  const Lock lock = lock_layers(context);
  make_run_directory(context, paths);
  base::make_directories(paths.root, 0711);
  mount_all_layers(context, config);
  if (config.image_bytes != 0) mount_image(config, paths);
  const base::Fd map = id_map(config.id_base);

  // The clones are only needed until the overlay holds them.
  std::vector<base::Mount> clones;
  std::string lower;
  for (size_t i = config.layers.size(); i-- > 0;) {  // overlayfs wants the top one first
    const std::string at = paths.run + "/lower" + std::to_string(i);
    clones.push_back(clone_shifted(layer_dir(context, config.layers[i].digest), at, map.get()));
    lower += (lower.empty() ? "" : ":") + at;
  }
  const std::string priv = paths.run + "/private";
  clones.push_back(clone_shifted(paths.priv, priv, map.get()));

  // nfs_export=on lets CRIU find the files that a box watches with inotify; it needs index=on.
  const std::string options = "lowerdir=" + lower + ",upperdir=" + priv + "/upper,workdir=" + priv +
                              "/work,xino=on,index=on,nfs_export=on";
  if (options.size() >= 4096) throw base::error("box {} has too many layers for one overlay", config.name);
  // overlayfs writes with its mounter's ids: as root of the node, which the map does not
  // contain, every copy-up would fail.
  as_id(config.id_base, [&] {
    if (::mount("overlay", paths.root.c_str(), "overlay", 0, options.c_str()) != 0)
      throw base::sys_error("cannot mount the root of box {}", config.name);
  });
}

void unmount_root(const base::Context& context, const Paths& paths) {
  const Lock lock = lock_layers(context);
  for (const auto& target : base::mounts_below(paths.run)) base::unmount_if_mounted(target);
  base::unmount_if_mounted(paths.priv);

  std::set<std::string> used;
  auto note_used = [&](const Paths& p) {
    if (auto config = find_config(p))
      for (const auto& layer : config->layers) used.insert(layer_dir(context, layer.digest));
  };
  try {
    // In this order: one that has arrived goes from the former to the latter.
    for (const auto& name : arriving_names(context))
      if (const Paths arriving = arriving_paths_of(context, name); arriving.dir != paths.dir)
        note_used(arriving);
    for (const auto& name : box_names(context))
      if (const Paths box = paths_of(context, name); base::is_mount_point(box.root)) note_used(box);
  } catch (const base::Error& e) {  // another box's damage does not keep this one from being stopped
    base::warn("layers stay mounted that may not be needed any more: {}", e.message());
    return;
  }
  for (const auto& layer : base::mounts_below(context.run_dir + "/layers"))
    if (!used.contains(layer)) base::unmount_if_mounted(layer);
}

std::vector<std::string> missing_layers(const base::Context& context, const Config& config) {
  const templates::Store store(context.state_dir);
  std::vector<std::string> out;
  for (const auto& layer : config.layers)
    if (!store.has_layer(layer)) out.push_back(layer.digest);
  return out;
}

uint64_t send_layers(base::Context& context, const Config& config, int in, int out) {
  return templates::send_missing(context, templates::Store(context.state_dir), config.template_ref, in, out);
}

}  // namespace box
