#include "box/cgroup.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
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

/// pid in the innermost pid namespace, and how many namespaces deep it is.
std::pair<pid_t, int> innermost_pid(pid_t pid) {
  std::istringstream in(status_field(pid, "NSpid"));
  pid_t last = 0;
  int depth = 0;
  for (pid_t p; in >> p; ++depth) last = p;
  return {last, depth};
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

void Cgroup::join(pid_t pid) const { base::write_file(dir_ + "/cgroup.procs", std::to_string(pid)); }

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
  std::ifstream in(dir_ + "/cgroup.procs");
  for (pid_t p; in >> p;) pids.push_back(p);
  return pids;
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

void Cgroup::kill_and_remove(std::chrono::milliseconds timeout) const {
  if (!base::exists(dir_)) return;
  base::write_file(dir_ + "/cgroup.kill", "1");
  require_event("populated 0", timeout);
  auto deadline = std::chrono::steady_clock::now() + timeout;
  // Exited processes keep the group busy until their parent has reaped them.
  while (::rmdir(dir_.c_str()) != 0 && errno != ENOENT) {
    if (errno != EBUSY || std::chrono::steady_clock::now() > deadline)
      throw base::sys_error("cannot remove {}", dir_);
    ::usleep(2000);
  }
}

std::optional<pid_t> find_init(const Cgroup& cgroup) {
  // Deeper than two are namespaces that the box has made inside of itself.
  for (pid_t pid : cgroup.pids())
    if (innermost_pid(pid) == std::pair(1, 2)) return pid;
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
    if (pid_namespace(std::to_string(pid)) == ours) home.join(pid);
}

}  // namespace box
