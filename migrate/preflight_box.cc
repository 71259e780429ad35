#include "migrate/preflight_box.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <format>
#include <fstream>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <sstream>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "base/fd.h"
#include "base/mount.h"
#include "box/dump.h"
#include "migrate/preflight_socket.h"
#include "migrate/quiet.h"

namespace migrate {
namespace {

// Descriptors without a file, as /proc/PID/fd names them. Those of the first list CRIU makes again.
constexpr std::array kKnownAnonymous = {"[eventpoll]", "[eventfd]",  "[signalfd]", "[timerfd]",
                                        "inotify",     "[fanotify]", "[pidfd]",    "[aio]"};
struct Named {
  const char* pattern;
  const char* what;
  const char* hint = nullptr;
};
// Only in boxes that were started before there was a rule against it (box/container.cc).
constexpr const char* kIoUringHint =
    "stop and start the box: from then on it has none, and most programs, as those of Node.js, do without";
constexpr Named kRefusedAnonymous[] = {
    {"[io_uring]", "uses io_uring", kIoUringHint},
    {"[userfaultfd]", "uses userfaultfd"},
    {"[perf_event]", "counts performance events"},
    {"bpf", "holds BPF maps or programs"},
    {"btf", "holds BPF types"},
    {"landlock", "holds Landlock rules"},
    {"[fscontext]", "holds a file system that is not mounted yet"},
    {"[secretmem]", "uses secret memory (memfd_secret)"},
    {"kvm", "runs a virtual machine"},
    {"seccomp notify", "decides on the system calls of others (seccomp notifications)"},
};
constexpr Named kRefusedMappings[] = {
    {"anon_inode:[io_uring]", "uses io_uring", kIoUringHint},
    {"anon_inode:[perf_event]", "counts performance events"},
    {"/secretmem (deleted)", "uses secret memory (memfd_secret)"},
};

// The devices that every box has: those that crun makes, and terminals.
constexpr std::pair<unsigned, unsigned> kDevices[] = {{1, 3}, {1, 5}, {1, 7}, {1, 8}, {1, 9}, {5, 2}};

constexpr long kMqueueMagic = 0x19800202;  // Linux, ipc/mqueue.c

std::string read_link(const std::string& path) {
  std::array<char, 4096> target{};
  const ssize_t n = ::readlink(path.c_str(), target.data(), target.size());
  return n < 0 ? std::string() : std::string(target.data(), static_cast<size_t>(n));
}

/// The value of a "key:  value" line; empty when the process is gone.
std::string field(const std::string& path, std::string_view key) {
  std::ifstream in(path);
  for (std::string line; std::getline(in, line);)
    if (line.starts_with(key) && line.size() > key.size() && line[key.size()] == ':') {
      const size_t from = line.find_first_not_of(" \t", key.size() + 1);
      return from == std::string::npos ? std::string() : line.substr(from);
    }
  return {};
}

std::vector<std::string> names_in(const std::string& dir) {
  std::vector<std::string> names;
  std::error_code gone;
  for (std::filesystem::directory_iterator it(dir, gone), end; !gone && it != end; it.increment(gone))
    names.push_back(it->path().filename());
  return names;
}

std::optional<Verdict> refused(std::span<const Named> list, const std::string& name) {
  for (const auto& [pattern, what, hint] : list) {
    if (!name.contains(pattern)) continue;
    Verdict found{cannot(what)};
    if (hint) found.hint = hint;
    return found;
  }
  return std::nullopt;
}

/// What the box has of its own: whatever a process holds beyond it lies outside.
struct BoxView {
  pid_t init = 0;
  std::set<std::string> mounts;      ///< ids, of every mount namespace in the box
  std::set<std::string> namespaces;  ///< "net:[4026532757]" of every process
  bool has_groups = false;           ///< it divides its control group, and has that mounted
  std::set<std::string> tmpfs;       ///< devices of those that are mounted as a whole
  std::map<std::string, std::pair<pid_t, std::string>> tmpfs_parts;  ///< device → who has one, and where
};

/// What a deleted file takes in the images. Not of tmpfs: that is memory, which is counted as such.
uint64_t deleted_size(const struct stat& s) {
  return S_ISREG(s.st_mode) && s.st_nlink == 0 ? static_cast<uint64_t>(s.st_blocks) * 512 : 0;
}

std::optional<Verdict> look_at_deleted(const struct stat& s, std::string_view how) {
  if (deleted_size(s) <= box::kMostGhostBytes) return std::nullopt;
  return Verdict{std::format("has a deleted file of {} MiB {}, and {} MiB is the most that can be moved",
                             deleted_size(s) >> 20, how, box::kMostGhostBytes >> 20)};
}

/// The deleted file that a line of /proc/PID/maps names; its descriptor may be closed. Not what is memory.
std::optional<struct stat> deleted_mapping(const std::string& proc, const std::string& line) {
  constexpr std::string_view kMark = " (deleted)";
  if (!line.ends_with(kMark)) return std::nullopt;
  struct stat s{};
  struct statfs fs{};
  const std::string link = proc + "/map_files/" + line.substr(0, line.find(' '));
  if (::stat(link.c_str(), &s) != 0 || ::statfs(link.c_str(), &fs) != 0 || fs.f_type == TMPFS_MAGIC ||
      fs.f_type == HUGETLBFS_MAGIC)
    return std::nullopt;
  return s;
}

std::optional<Verdict> look_at_device(const struct stat& s, const std::string& path) {
  const auto device = std::pair(major(s.st_rdev), minor(s.st_rdev));
  // CRIU finds the terminal of /dev/tty only where one process holds both of its ends (4.2, criu/tty.c).
  if (device == std::pair(5U, 0U))
    return Verdict{
        cannot("has /dev/tty open"),
        "programs that ask at the terminal do, and shells such as dash at a prompt, bash not: end it"};
  const bool terminal = device.first >= 136 && device.first <= 143;  // Documentation/admin-guide/devices.txt
  if (terminal || std::ranges::find(kDevices, device) != std::end(kDevices)) return std::nullopt;
  return Verdict{cannot("has the device " + path + " open")};
}

/// Who writes into a pressure file sets a trigger (Linux, Documentation/accounting/psi.rst). It belongs to
/// the open file, and nothing tells it again; without one the file is ready at every look, and its program
/// spins.
bool is_pressure_trigger(const std::string& info, const std::string& target) {
  return (target.starts_with("/proc/pressure/") || target.ends_with(".pressure")) &&
         (std::strtoul(field(info, "flags").c_str(), nullptr, 8) & O_ACCMODE) != O_RDONLY;
}

/// A descriptor that leads to something with a path.
std::optional<Verdict> look_at_file(const BoxView& box, const std::string& proc, const std::string& number,
                                    const std::string& target) {
  struct stat s{};
  struct statfs fs{};
  const std::string link = proc + "/fd/" + number;
  if (target.starts_with("/memfd:") || ::stat(link.c_str(), &s) != 0 || ::statfs(link.c_str(), &fs) != 0)
    return std::nullopt;
  if (fs.f_type == kMqueueMagic) return Verdict{cannot("has the POSIX message queue " + target + " open")};
  if (target == "/secretmem (deleted)") return Verdict{cannot("uses secret memory (memfd_secret)")};
  if (is_pressure_trigger(proc + "/fdinfo/" + number, target))
    return Verdict{cannot("waits for a trigger in " + target),
                   "if systemd started it, its unit needs MemoryPressureWatch=off; else start it with "
                   "MEMORY_PRESSURE_WATCH=/dev/null in its environment"};
  if (auto found = look_at_deleted(s, "open")) return found;
  const std::string mount = field(proc + "/fdinfo/" + number, "mnt_id");
  if (!mount.empty() && !box.mounts.contains(mount))
    return Verdict{
        "holds " + target + ", which lies outside the box",
        "it came in with `box exec`: end that process, and start it with its input and output in the box"};
  return S_ISCHR(s.st_mode) || S_ISBLK(s.st_mode) ? look_at_device(s, target) : std::nullopt;
}

std::optional<Verdict> look_at_descriptor(const BoxView& box, pid_t pid, const std::string& number) {
  const std::string proc = "/proc/" + std::to_string(pid), target = read_link(proc + "/fd/" + number),
                    info = proc + "/fdinfo/" + number;
  if (target.empty()) return std::nullopt;
  if (target.starts_with('/')) return look_at_file(box, proc, number, target);
  if (target.starts_with("socket:")) return look_at_socket(pid, number);
  if (target.starts_with("pipe:")) {
    if ((std::strtoul(field(info, "flags").c_str(), nullptr, 8) & O_DIRECT) != 0)
      return Verdict{cannot("has a pipe in packet mode (O_DIRECT)")};
    return std::nullopt;
  }
  if (target.starts_with("anon_inode:")) {
    if (auto found = refused(kRefusedAnonymous, target)) return found;
    // Linux 6.5 tells it; CRIU would make it a counter without a word.
    if (target.ends_with("[eventfd]") && field(info, "eventfd-semaphore") == "1")
      return Verdict{cannot("has an eventfd in semaphore mode")};
    if (std::ranges::any_of(kKnownAnonymous, [&](const char* known) { return target.ends_with(known); }))
      return std::nullopt;
    return Verdict{cannot("holds \"" + target.substr(11) + "\"")};
  }
  if (target.contains(":[") && !box.namespaces.contains(target))
    return Verdict{cannot("holds the namespace " + target + ", in which no process is")};
  return std::nullopt;
}

std::optional<Verdict> look_at_mappings(const std::string& proc) {
  if (read_link(proc + "/exe").starts_with("/memfd:"))
    return Verdict{cannot("runs a program that is only in memory (memfd)")};
  std::ifstream in(proc + "/maps");
  for (std::string line; std::getline(in, line);) {
    if (auto found = refused(kRefusedMappings, line)) return found;
    if (const auto file = deleted_mapping(proc, line))
      if (auto found = look_at_deleted(*file, "mapped")) return found;
    if (!line.contains(" /memfd:") || line[line.find(' ') + 4] != 's') continue;
    // CRIU maps it writable before it seals it, which then fails (4.2, criu/memfd.c).
    const base::Fd file(::open((proc + "/map_files/" + line.substr(0, line.find(' '))).c_str(),
                               O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    const int seals = ::fcntl(file.get(), F_GET_SEALS);
    if (seals >= 0 && (seals & F_SEAL_WRITE) != 0)
      return Verdict{cannot("has mapped a memfd that is sealed against writing")};
  }
  return std::nullopt;
}

/// Namespaces of its own: CRIU has those of mounts and of networks inside a box, but no others.
std::optional<Verdict> look_at_namespaces(const BoxView& box, const std::string& proc) {
  struct Kind {
    const char* file;
    const char* name;
    const char* setting;  ///< of a unit of systemd
  };
  constexpr Kind kKinds[] = {{"user", "a user", "PrivateUsers=no"},
                             {"pid", "a process", "PrivatePIDs=no"},
                             {"uts", "a host name", "ProtectHostname=no"},
                             {"ipc", "an IPC", "PrivateIPC=no"},
                             {"time", "a time", nullptr},
                             {"cgroup", "a control group", "ProtectControlGroups=yes or no"},
                             {"pid_for_children", "a process", "PrivatePIDs=no"},
                             {"time_for_children", "a time", nullptr}};
  for (const auto& [kind, name, setting] : kKinds) {
    const std::string own = read_link(proc + "/ns/" + kind),
                      common = read_link("/proc/" + std::to_string(box.init) + "/ns/" + kind);
    if (!own.empty() && !common.empty() && own != common)
      return Verdict{
          cannot(std::format("has {} namespace of its own", name)),
          "containers and sandboxes in the box make such; the box can be moved when they have ended" +
              (setting ? std::format(". If systemd started it, its unit needs {}", setting) : "")};
  }
  return std::nullopt;
}

std::optional<Verdict> look_at_threads(const std::string& proc) {
  for (const auto& thread : names_in(proc + "/task")) {
    const std::string task = proc + "/task/" + thread, tracer = field(task + "/status", "TracerPid");
    if (!tracer.empty() && tracer != "0")
      return Verdict{std::format("is traced by {} (pid {}), which cannot be moved",
                                 field("/proc/" + tracer + "/status", "Name"), tracer),
                     "end the debugger or strace"};
  }
  return std::nullopt;
}

/// vfork(2), with the child still in its parent's place: nothing can make that again. Programs start others
/// with it, so it is looked at more than once.
bool hangs_in_vfork(pid_t pid) {
  for (int i = 0; i < 10; ++i, ::usleep(20'000))
    if (!is_in_vfork(pid)) return false;
  return true;
}

std::optional<Verdict> look_at(const BoxView& box, pid_t pid) {
  const std::string proc = "/proc/" + std::to_string(pid);
  if (auto found = look_at_threads(proc)) return found;
  if (auto found = look_at_namespaces(box, proc)) return found;
  if (auto found = look_at_mappings(proc)) return found;
  for (const auto& number : names_in(proc + "/fd"))
    if (auto found = look_at_descriptor(box, pid, number)) return found;
  if (hangs_in_vfork(pid))
    return Verdict{"waits in vfork for a child that starts no program, which cannot be moved"};
  return std::nullopt;
}

/// Such as /dev/null, which crun binds into a box from the node.
bool is_device(pid_t pid, const std::string& target) {
  struct stat s{};
  return ::stat(("/proc/" + std::to_string(pid) + "/root" + target).c_str(), &s) == 0 && S_ISCHR(s.st_mode);
}

/// Mounts of kinds that CRIU does not know, or cannot make inside a user namespace; and their ids.
std::optional<Verdict> look_at_mounts(BoxView& box, pid_t pid) {
  constexpr std::array kKnown = {"tmpfs", "proc", "sysfs", "devpts", "mqueue", "devtmpfs"};
  std::string root_device;
  std::optional<Verdict> found;
  const auto mounts = base::mounts_of(pid);
  if (!mounts) return found;
  for (const auto& [id, device, root, target, type] : *mounts) {
    if (target == "/") root_device = device;
    box.mounts.insert(id);
    if (type == "tmpfs" && root == "/") box.tmpfs.insert(device);
    if (type == "tmpfs" && root != "/" && !is_device(pid, target))
      box.tmpfs_parts.try_emplace(device, pid, target);
    // Its own groups, wherever services of it have them mounted: all are one file system.
    if (type == "cgroup2" && box.has_groups) continue;
    if (device == root_device || std::ranges::find(kKnown, type) != kKnown.end()) continue;
    found = Verdict{cannot(std::format("has a file system of the type {} on {}", type, target)),
                    std::format("unmount it in the box: umount {}", target)};
  }
  return found;
}

}  // namespace

uint64_t deleted_bytes(const std::vector<pid_t>& pids) {
  std::map<std::pair<dev_t, ino_t>, uint64_t> files;
  for (const pid_t pid : pids) {
    const std::string proc = "/proc/" + std::to_string(pid), dir = proc + "/fd/";
    std::ifstream maps(proc + "/maps");
    for (std::string line; std::getline(maps, line);)
      if (const auto s = deleted_mapping(proc, line); s && deleted_size(*s) > 0)
        files[{s->st_dev, s->st_ino}] = deleted_size(*s);
    for (const auto& number : names_in(dir)) {
      struct stat s{};
      if (read_link(dir + number).starts_with('/') && ::stat((dir + number).c_str(), &s) == 0 &&
          deleted_size(s) > 0)
        files[{s.st_dev, s.st_ino}] = deleted_size(s);
    }
  }
  uint64_t total = 0;
  for (const auto& [file, size] : files) total += size;
  return total;
}

uint64_t tmpfs_bytes(pid_t pid) {
  const std::string proc = "/proc/" + std::to_string(pid);
  std::set<std::string> seen;
  uint64_t total = 0;
  const auto mounts = base::mounts_of(pid);
  if (!mounts) return total;
  for (const auto& mount : *mounts) {
    struct statfs s{};
    if (mount.type == "tmpfs" && seen.insert(mount.device).second &&
        ::statfs((proc + "/root" + mount.point).c_str(), &s) == 0 && s.f_type == TMPFS_MAGIC)
      total += (s.f_blocks - s.f_bfree) * static_cast<uint64_t>(s.f_bsize);
  }
  return total;
}

void require_movable(const box::Config& config, const std::vector<pid_t>& pids, pid_t init) {
  const std::string& name = config.name;
  BoxView box;
  box.init = init;
  box.has_groups = config.start.control_groups;
  auto refuse = [&](pid_t pid, const Verdict& verdict) {
    const std::string command = field("/proc/" + std::to_string(pid) + "/status", "Name");
    throw base::error("box {}: process {} ({}) {}", name, pid, command, verdict.what).hint(verdict.hint);
  };
  for (const pid_t pid : pids) {
    const std::string proc = "/proc/" + std::to_string(pid);
    for (const auto& kind : names_in(proc + "/ns")) box.namespaces.insert(read_link(proc + "/ns/" + kind));
  }
  std::set<std::string> seen;
  for (const pid_t pid : pids)
    if (seen.insert(read_link("/proc/" + std::to_string(pid) + "/ns/mnt")).second)
      if (auto found = look_at_mounts(box, pid))
        throw base::error("box {} {}", name, found->what).hint(found->hint);
  for (const auto& [device, part] : box.tmpfs_parts)
    if (!box.tmpfs.contains(device))
      refuse(part.first,
             {cannot("has a part of a tmpfs on " + part.second + " whose whole is mounted nowhere"),
              "if systemd started it with DynamicUser=yes or PrivateTmp=disconnected, its unit needs "
              "PrivateTmp=yes"});
  for (const pid_t pid : pids)
    if (auto found = look_at(box, pid)) refuse(pid, *found);
  for (const auto& queue : names_in("/proc/" + std::to_string(init) + "/root/dev/mqueue"))
    throw base::error("box {} has the POSIX message queue /{}, which cannot be moved", name, queue)
        .hint("remove it with mq_unlink, or `rm /dev/mqueue/" + queue + "` in the box");
}

}  // namespace migrate
