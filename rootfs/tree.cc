#include "rootfs/tree.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <future>
#include <sstream>

#include "base/error.h"
#include "rootfs/workspace.h"

namespace rootfs {
namespace {

constexpr auto kLongest = std::chrono::minutes(30);

base::Fd open_in(int root, const std::string& path, uint64_t flags, uint64_t mode = 0) {
  struct open_how how = {.flags = flags | O_CLOEXEC, .mode = mode, .resolve = RESOLVE_IN_ROOT};
  long fd = -1;
  // EAGAIN: the path has a "..", and somewhere on this machine something was renamed or mounted meanwhile
  // (openat2(2)): that says nothing about the file.
  do fd = ::syscall(SYS_openat2, root, path.c_str(), &how, sizeof how);
  while (fd < 0 && (errno == EINTR || errno == EAGAIN));
  return base::Fd(static_cast<int>(fd));
}

/// sysfs belongs to a network namespace, and mounting it takes rights over that one: so it is an empty one's,
/// which this machine's interfaces are not in.
base::Mount mount_sysfs(const std::string& target) {
  return std::async(std::launch::async,
                    [&] {
                      if (::unshare(CLONE_NEWNET) != 0)
                        throw base::sys_error("cannot make a network namespace");
                      return base::Mount::make("sysfs", target, "sysfs",
                                               MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC);
                    })
      .get();
}

/// /dev as a box has it, and no more: what a package's script can need. From the builder's
/// nodes, because a builder may itself be a box that cannot make nodes.
void mount_api(const std::string& root, Mounts& mounts) {
  for (const char* directory : {"/proc", "/sys", "/dev"}) base::make_directories(root + directory);
  mounts.push(mount_sysfs(root + "/sys"));
  mounts.push(base::Mount::make("tmpfs", root + "/dev", "tmpfs", MS_NOSUID, "mode=755,size=1m"));
  for (const char* node : {"null", "zero", "full", "random", "urandom", "tty"}) {
    std::string target = root + "/dev/" + node;
    base::write_file(target, "");
    mounts.push(base::Mount::bind(std::string("/dev/") + node, target));
  }
  std::filesystem::create_symlink("/proc/self/fd", root + "/dev/fd");
}

}  // namespace

Tree::Tree(std::string path) : path_(std::move(path)), fd_(base::open(path_, O_PATH | O_DIRECTORY)) {}

base::Fd Tree::open_directory(const std::string& path) const {
  std::string sofar = "/";
  base::Fd here = open_in(fd_.get(), sofar, O_PATH | O_DIRECTORY);
  for (const auto& part : std::filesystem::path(path).relative_path()) {
    sofar += (sofar.ends_with('/') ? "" : "/") + part.string();
    base::Fd next = open_in(fd_.get(), sofar, O_PATH | O_DIRECTORY);
    if (!next && errno == ENOENT) {
      if (::mkdirat(here.get(), part.c_str(), 0755) != 0)
        throw base::sys_error("cannot create {} in the tree", sofar);
      next = open_in(fd_.get(), sofar, O_PATH | O_DIRECTORY);
    }
    if (!next) throw base::sys_error("cannot open {} in the tree", sofar);
    here = std::move(next);
  }
  return here;
}

unsigned Tree::id_of(const File& file, const std::string& name, const char* database) const {
  if (name == "root") return 0;
  if (name.find_first_not_of("0123456789") == std::string::npos)
    return static_cast<unsigned>(std::stoul(name));
  base::Fd fd = open_in(fd_.get(), std::string("/etc/") + database, O_RDONLY);
  std::string text = fd ? base::read_file(std::format("/proc/self/fd/{}", fd.get())) : "";
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) {
    if (!line.starts_with(name + ":")) continue;
    size_t second = line.find(':', line.find(':') + 1);
    return static_cast<unsigned>(std::atoi(line.c_str() + second + 1));
  }
  throw base::error("{}: file {}: the tree has no {} in /etc/{}", file.place, file.path, name, database)
      .hint("name one that its packages make, or a number");
}

void Tree::place(const File& file) const {
  using Kind = File::Kind;
  std::filesystem::path path = file.path;
  std::string name = path.filename();
  uid_t uid = id_of(file, file.owner, "passwd");
  gid_t gid = id_of(file, file.group, "group");
  base::in_context(std::format("placing {} ({})", file.path, file.place), [&] {
    base::Fd parent = open_directory(path.parent_path());
    base::Fd made;
    if (file.kind == Kind::kDirectory) {
      made = open_directory(path);
    } else {
      if (::unlinkat(parent.get(), name.c_str(), 0) != 0 && errno != ENOENT)
        throw base::sys_error("cannot replace {}", file.path);
    }
    if (file.kind == Kind::kSymlink && ::symlinkat(file.content.c_str(), parent.get(), name.c_str()) != 0)
      throw base::sys_error("cannot create {}", file.path);
    if (file.kind == Kind::kContent) {
      made = base::open_at(parent.get(), name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0600);
      base::write_full(made.get(), file.content, file.path);
    }
    // The owner first: chown takes setuid bits away.
    int at = made ? made.get() : parent.get();
    if (::fchownat(at, made ? "" : name.c_str(), uid, gid, made ? AT_EMPTY_PATH : AT_SYMLINK_NOFOLLOW) != 0)
      throw base::sys_error("cannot set the owner of {}", file.path);
    if (made && ::chmod(std::format("/proc/self/fd/{}", made.get()).c_str(), file.mode) != 0)
      throw base::sys_error("cannot set the mode of {}", file.path);
  });
}

bool Tree::has(const std::string& path) const { return static_cast<bool>(open_in(fd_.get(), path, O_PATH)); }

std::vector<std::string> Tree::isolated(std::vector<std::string> argv, int64_t clock,
                                        const std::vector<std::string>& unshare_options) {
  std::vector<std::string> command = {
      "env", "-i", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root",
      "LC_ALL=C.UTF-8", "TZ=UTC", "DEBIAN_FRONTEND=noninteractive", "DEBCONF_NONINTERACTIVE_SEEN=true",
      std::format("SOURCE_DATE_EPOCH={}", clock),
      // The namespaces end with unshare, and unshare with us.
      "unshare", "--mount", "--pid", "--net", "--ipc", "--fork", "--kill-child=KILL"};
  command.insert(command.end(), unshare_options.begin(), unshare_options.end());
  command.insert(command.end(), argv.begin(), argv.end());
  return command;
}

base::Result Tree::run(base::Context& context, std::vector<std::string> argv, int64_t clock,
                       bool inside) const {
  Mounts mounts;
  mount_api(path_, mounts);
  std::vector<std::string> options = {"--mount-proc=" + (inside ? std::string("/proc") : path_ + "/proc")};
  if (inside) options.push_back("--root=" + path_);
  return context.runner.run_any({.argv = isolated(std::move(argv), clock, options), .timeout = kLongest});
}

}  // namespace rootfs
