#include "box/cgroup.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <memory>
#include <sstream>

#include "base/error.h"
#include "base/fd.h"

namespace box {
namespace {

std::string proc(pid_t pid, const char* what) { return "/proc/" + std::to_string(pid) + "/" + what; }

std::string pid_namespace(const std::string& process) {
  char buf[64];
  ssize_t n = ::readlink(("/proc/" + process + "/ns/pid").c_str(), buf, sizeof buf);
  return n < 0 ? std::string() : std::string(buf, static_cast<size_t>(n));
}

/// The value of one line of /proc/PID/status; empty when the process is gone.
std::string status_field(pid_t pid, std::string_view key) {
  std::ifstream in(proc(pid, "status"));
  for (std::string line; std::getline(in, line);)
    if (line.starts_with(key) && line.size() > key.size() && line[key.size()] == ':')
      return line.substr(key.size() + 1);
  return {};
}

/// Its pid in each pid namespace that it is in, from ours to its own.
std::vector<pid_t> namespace_pids(pid_t pid) {
  std::istringstream in(status_field(pid, "NSpid"));
  std::vector<pid_t> pids;
  for (pid_t p; in >> p;) pids.push_back(p);
  return pids;
}

/// What a box's root gets of its group: what Linux names in /sys/kernel/cgroup/delegate, but for the files
/// of controllers.
constexpr const char* kDelegated[] = {"cgroup.procs", "cgroup.threads", "cgroup.subtree_control"};

/// Those of whose values cgroup_tree.cc takes some along.
constexpr const char* kControllers[] = {"cpuset", "cpu", "io", "memory", "pids"};

// So that a box cannot fill the kernel's memory with groups. A server with systemd has 50 of them, 5 deep.
constexpr const char* kMostDescendants = "4096";
constexpr const char* kMostDepth = "32";

void collect_subgroups(const std::string& dir, const std::string& path, std::vector<std::string>& out) {
  out.push_back(path);
  std::unique_ptr<DIR, int (*)(DIR*)> entries(::opendir((dir + "/" + path).c_str()), ::closedir);
  if (!entries) return;  // removed meanwhile
  std::vector<std::string> children;
  while (const dirent* e = ::readdir(entries.get()))
    if (e->d_type == DT_DIR && std::string_view(e->d_name) != "." && std::string_view(e->d_name) != "..")
      children.emplace_back(e->d_name);
  std::ranges::sort(children);
  for (const auto& child : children) collect_subgroups(dir, path.empty() ? child : path + "/" + child, out);
}

/// Gives controllers to the groups in a group. One that cannot be had is no error here: who needs it says so
/// (cgroup_tree.cc). Away from the real root there are none for a group that has processes of its own.
void hand_down_controllers(const std::string& dir) {
  for (const char* controller : kControllers) {
    std::ofstream file(dir + "/cgroup.subtree_control");
    file << '+' << controller << std::flush;
  }
}

std::string own_group() {
  std::ifstream in("/proc/self/cgroup");
  for (std::string line; std::getline(in, line);)
    if (line.starts_with("0::")) return cgroup_mount() + line.substr(3);
  throw base::error("this process is in no control group of version 2");
}

}  // namespace

const std::string& cgroup_mount() {
  static const std::string found = [] {
    std::ifstream in("/proc/self/mounts");
    std::string source, target, type, rest;
    while (in >> source >> target >> type && std::getline(in, rest))
      if (type == "cgroup2") return target;
    throw base::error("control groups of version 2 are not mounted on this node")
        .hint("mount -t cgroup2 cgroup2 /sys/fs/cgroup");
  }();
  return found;
}

void Cgroup::create() const { base::make_directories(dir_, 0755); }

void Cgroup::create_for_box() const {
  create();
  std::string above = cgroup_mount();
  if (!dir_.starts_with(above + "/")) return;
  while (above.size() < dir_.size()) {
    hand_down_controllers(above);
    above = dir_.substr(0, dir_.find('/', above.size() + 1));
  }
}

bool Cgroup::join(pid_t pid) const {
  const std::string file = dir_ + "/cgroup.procs", text = std::to_string(pid);
  const base::Fd fd = base::open(file, O_WRONLY);
  if (::write(fd.get(), text.data(), text.size()) >= 0) return true;
  if (errno != ESRCH) throw base::sys_error("cannot write {}", file);
  return false;
}

pid_t Cgroup::fork_into() const {
  const base::Fd group = base::open(dir_, O_RDONLY | O_DIRECTORY);
  clone_args how{};
  how.flags = CLONE_INTO_CGROUP;
  how.exit_signal = SIGCHLD;
  how.cgroup = static_cast<uint64_t>(group.get());
  return static_cast<pid_t>(::syscall(SYS_clone3, &how, sizeof how));
}

bool Cgroup::populated() const {
  auto events = base::read_file_if_exists(dir_ + "/cgroup.events");
  return events && events->contains("populated 1");
}

bool Cgroup::frozen() const {
  auto events = base::read_file_if_exists(dir_ + "/cgroup.events");
  return events && events->contains("frozen 1");
}

std::vector<pid_t> Cgroup::pids() const {
  std::vector<pid_t> pids;
  for (const auto& group : subgroups()) {
    std::ifstream in(dir_ + "/" + group + "/cgroup.procs");
    for (pid_t p; in >> p;) pids.push_back(p);
  }
  return pids;
}

std::vector<std::string> Cgroup::subgroups() const {
  std::vector<std::string> out;
  collect_subgroups(dir_, "", out);
  return out;
}

bool Cgroup::wait_for_event(std::string_view line, std::chrono::milliseconds timeout) const {
  base::Fd events = base::open(dir_ + "/cgroup.events", O_RDONLY);
  auto deadline = std::chrono::steady_clock::now() + timeout;
  for (;;) {
    char buf[256];
    ssize_t n = ::pread(events.get(), buf, sizeof buf, 0);
    if (n < 0) throw base::sys_error("cannot read {}/cgroup.events", dir_);
    if (std::string_view(buf, static_cast<size_t>(n)).contains(line)) return true;
    auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
    if (left.count() <= 0) return false;
    // The kernel raises POLLPRI when the file's content changes (cgroups(7)).
    pollfd p{events.get(), POLLPRI, 0};
    ::poll(&p, 1, static_cast<int>(left.count()));
  }
}

void Cgroup::require_event(std::string_view line, std::chrono::milliseconds timeout) const {
  if (!wait_for_event(line, timeout))
    throw base::error("the processes in {} did not reach '{}' in {} ms", dir_, line, timeout.count())
        .hint("a process in uninterruptible sleep (state D in ps) holds it up: look at its storage");
}

bool Cgroup::wait_empty(std::chrono::milliseconds timeout) const {
  return wait_for_event("populated 0", timeout);
}

void Cgroup::freeze(std::chrono::milliseconds timeout) const {
  base::write_file(dir_ + "/cgroup.freeze", "1");
  require_event("frozen 1", timeout);
}

void Cgroup::thaw() const { base::write_file(dir_ + "/cgroup.freeze", "0"); }

void Cgroup::keep() const {
  auto take = [](const std::string& path) {
    if (::lchown(path.c_str(), 0, 0) != 0) throw base::sys_error("cannot take {} back", path);
  };
  for (const auto& entry : std::filesystem::directory_iterator(dir_)) take(entry.path());
  take(dir_);
}

void Cgroup::delegate(uid_t uid) const {
  base::write_file(dir_ + "/cgroup.max.descendants", kMostDescendants);
  base::write_file(dir_ + "/cgroup.max.depth", kMostDepth);
  auto give = [&](const std::string& path) {
    if (::lchown(path.c_str(), uid, uid) != 0) throw base::sys_error("cannot give {} to the box", path);
  };
  for (const char* file : kDelegated) give(dir_ + "/" + file);
  give(dir_);
}

void Cgroup::kill_and_remove(std::chrono::milliseconds timeout) const {
  if (!base::exists(dir_)) return;
  base::write_file(dir_ + "/cgroup.kill", "1");
  require_event("populated 0", timeout);
  auto deadline = std::chrono::steady_clock::now() + timeout;
  auto groups = subgroups();
  for (auto group = groups.rbegin(); group != groups.rend(); ++group) {
    const std::string path = group->empty() ? dir_ : dir_ + "/" + *group;
    // Exited processes keep the group busy until their parent has reaped them.
    while (::rmdir(path.c_str()) != 0 && errno != ENOENT) {
      if (errno != EBUSY || std::chrono::steady_clock::now() > deadline)
        throw base::sys_error("cannot remove {}", path);
      ::usleep(2000);
    }
  }
}

pid_t pid_in_box(pid_t pid) {
  // Deeper than two are namespaces that the box has made inside of itself.
  auto pids = namespace_pids(pid);
  return pids.size() < 2 ? 0 : pids[1];
}

std::map<pid_t, pid_t> processes_of(const Cgroup& cgroup) {
  std::map<pid_t, pid_t> found;
  for (const pid_t pid : cgroup.pids())
    if (const pid_t inside = pid_in_box(pid); inside != 0) found.emplace(inside, pid);
  return found;
}

std::optional<pid_t> find_init(const Cgroup& cgroup) {
  for (pid_t pid : cgroup.pids())
    if (pid_in_box(pid) == 1) return pid;
  return std::nullopt;
}

std::vector<pid_t> foreign_processes(const Cgroup& cgroup) {
  std::vector<pid_t> found;
  auto pids = cgroup.pids();
  auto init = find_init(cgroup);
  for (pid_t pid : pids) {
    if (init && pid == *init) continue;
    pid_t parent = static_cast<pid_t>(std::strtol(status_field(pid, "PPid").c_str(), nullptr, 10));
    if (parent != 0 && std::ranges::find(pids, parent) == pids.end()) found.push_back(pid);
  }
  return found;
}

void evict_ours(const Cgroup& cgroup) {
  const std::string ours = pid_namespace("self");
  const Cgroup home(own_group());
  for (pid_t pid : cgroup.pids())
    if (pid_namespace(std::to_string(pid)) == ours) home.join(pid);  // CRIU's helpers end at any time
}

}  // namespace box
