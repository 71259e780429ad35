#include "bootstrap/start.h"

#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <filesystem>
#include <format>

#include "base/error.h"
#include "base/fd.h"
#include "base/mount.h"
#include "bootstrap/console.h"
#include "bootstrap/copy_tree.h"
#include "bootstrap/data.h"
#include "bootstrap/disks.h"
#include "bootstrap/kernel_line.h"
#include "bootstrap/ports.h"

namespace bootstrap {
namespace {

namespace fs = std::filesystem;

const std::string kState = "/var/lib/drover";
constexpr size_t kMostConfig = 1 << 20;

void write_node_file(const std::string& path, const NodeFile& file) {
  base::make_directories(fs::path(path).parent_path());
  if (::unlink(path.c_str()) != 0 && errno != ENOENT) throw base::sys_error("cannot replace {}", path);
  if (file.link) {
    fs::create_symlink(file.content, path);
    return;
  }
  base::write_file(path, file.content);
  if (::chmod(path.c_str(), file.mode) != 0) throw base::sys_error("cannot set the mode of {}", path);
}

Partition data_partition(const std::vector<Partition>& all, const std::string& disk) {
  auto found = find_partition(all, kDataName, disk);
  if (!found)
    throw base::error("the disk {}, from which this slot was started, has no partition {}", disk, kDataName)
        .hint("install the node anew over the network");
  return *found;
}

/// The journal is kept; the rest of /var/log is this boot's.
void keep_journal() {
  for (const std::string& path : {kState + "/journal", std::string("/var/log/journal")})
    base::make_directories(path);
  base::Mount::bind(kState + "/journal", "/var/log/journal").release();
}

/// A node that came over the network has no data partition: its state is this boot's. Its disks may belong to
/// somebody; whoever is to write to them says so.
void keep_nothing() {
  base::Mount::make("tmpfs", kState, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755,size=50%").release();
  say("this node was started from the network: its root and its state are in memory, and no disk is touched");
}

NodeFacts gather(base::Runner& runner, const std::string& esp, bool network) {
  load_network_drivers(runner);
  NodeFacts facts = {.config = read_node_config(kState),
                     .macs = ethernet_macs(),
                     .machine_id = machine_id(kState),
                     .esp = esp,
                     .resolved = base::exists("/usr/lib/systemd/systemd-resolved"),
                     .network = network};
  for (const std::string& doubt : doubts(facts)) say("{}", doubt);
  return facts;
}

}  // namespace

void make_writable(const std::string& path, const std::string& options) {
  base::Fd image = base::open(path, O_PATH | O_DIRECTORY);
  struct stat about = {};
  if (::fstat(image.get(), &about) != 0) throw base::sys_error("cannot look at {}", path);
  base::Mount fresh = base::Mount::make("tmpfs", path, "tmpfs", MS_NOSUID | MS_NODEV, options);
  // The descriptor leads below the new mount.
  copy_tree(std::format("/proc/self/fd/{}", image.get()), path);
  if (::chmod(path.c_str(), about.st_mode & 07777) != 0)
    throw base::sys_error("cannot set the mode of {}", path);
  fresh.release();
}

void write_node_files(const NodeFiles& files, const std::string& root) {
  for (const auto& [path, file] : files) write_node_file(root + path, file);
}

NodeConfig read_node_config(const std::string& state_dir) {
  const std::string path = state_dir + "/node.toml";
  try {
    auto text = base::read_file_if_exists(path, kMostConfig);
    if (text) return parse_node_config(*text, path);
  } catch (const base::Error& error) {
    say("{}", error.message());
    say("node.toml is not used: this node has the default network, DHCP on all ports, and no keys but the "
        "image's");
  }
  return {};
}

void mark_as_updated(const std::string& root) {
  struct stat usr = {};
  if (::stat((root + "/usr").c_str(), &usr) != 0) throw base::sys_error("cannot look at {}/usr", root);
  const std::array<timespec, 2> times = {usr.st_mtim, usr.st_mtim};
  for (const char* part : {"/etc", "/var"}) {
    std::string path = root + part + "/.updated";
    base::write_file(path, "");
    if (::utimensat(AT_FDCWD, path.c_str(), times.data(), 0) != 0)
      throw base::sys_error("cannot set the time of {}", path);
  }
}

void start_node(base::Runner& runner) {
  make_writable("/var", "mode=0755,size=25%");
  std::string esp;
  const bool network = booted_from_network(base::read_file("/proc/cmdline"));
  if (network) {
    keep_nothing();
  } else {
    std::vector<Partition> all = partitions();
    auto disk = disk_of("/");
    if (!disk) throw base::error("the root is on no disk that the kernel knows");
    mount_data(runner, "/dev/" + data_partition(all, *disk).device, kState);
    keep_journal();
    if (auto found = find_partition(all, kEspName, *disk)) esp = "/dev/" + found->device;
  }
  make_writable("/etc", "mode=0755,size=25%");
  write_node_files(node_files(gather(runner, esp, network)), "");
  mark_as_updated("");
  ensure_host_key(runner, kState);

  const char* argv[] = {"/sbin/init", nullptr};
  ::execve(argv[0], const_cast<char**>(argv), environ);
  throw base::sys_error("cannot start {}", argv[0]);
}

}  // namespace bootstrap
