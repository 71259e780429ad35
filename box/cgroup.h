#pragma once
#include <sys/types.h>

#include <chrono>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace box {

/// Where cgroup v2 is mounted on this node. Throws when it is not.
const std::string& cgroup_mount();

/// A box's control group (cgroups(7), version 2), with all groups below it. Knows nothing but its
/// directory; what it tells is read from the kernel each time.
class Cgroup {
 public:
  explicit Cgroup(std::string dir) : dir_(std::move(dir)) {}

  void create() const;
  /// As create(), with every controller that the node has and that a box may divide: the group of a box.
  void create_for_box() const;
  /// Takes it back from whoever it was given to: the box can neither divide its group nor leave it.
  void keep() const;
  /// Lets the box's root, `uid` on the node, divide its group: make groups below it and move its processes
  /// among them, and nowhere else. The group's own limits stay the node's.
  void delegate(uid_t uid) const;
  /// The groups below it as paths from here, parents before children; begins with "", itself.
  [[nodiscard]] std::vector<std::string> subgroups() const;
  /// Puts a process into it. False: the process has ended.
  bool join(pid_t pid) const;  // NOLINT(modernize-use-nodiscard): one's own has not
  /// As fork(2), for a process of one thread: but the new process is born in the group. To join one the
  /// kernel has to wait until nobody forks, for 5 to 20 ms. -1, with errno: a kernel before 5.7 cannot.
  [[nodiscard]] pid_t fork_into() const;
  [[nodiscard]] bool populated() const;  ///< false also when it does not exist
  [[nodiscard]] bool frozen() const;
  [[nodiscard]] std::vector<pid_t> pids() const;  ///< in it and in all groups below

  /// Stops or resumes every process in it; returns when the kernel says so.
  void freeze(std::chrono::milliseconds timeout = std::chrono::seconds(10)) const;
  void thaw() const;
  /// Whether its last process ended within `timeout`.
  [[nodiscard]] bool wait_empty(std::chrono::milliseconds timeout) const;
  /// SIGKILL to all, frozen ones too, waits until they are gone, and removes the groups.
  void kill_and_remove(std::chrono::milliseconds timeout = std::chrono::seconds(20)) const;

  [[nodiscard]] const std::string& dir() const { return dir_; }

 private:
  [[nodiscard]] bool wait_for_event(std::string_view line, std::chrono::milliseconds timeout) const;
  void require_event(std::string_view line, std::chrono::milliseconds timeout) const;
  std::string dir_;
};

/// A process's pid in the box's pid namespace; 0 when it is in none or has ended.
pid_t pid_in_box(pid_t pid);
/// Every process of a box: its pid inside the box → its pid on this node.
std::map<pid_t, pid_t> processes_of(const Cgroup& cgroup);
/// Process 1 of a box: the one whose pid in its own pid namespace is 1.
std::optional<pid_t> find_init(const Cgroup& cgroup);
/// Processes that came from outside (box exec): their parent is not in the box.
std::vector<pid_t> foreign_processes(const Cgroup& cgroup);
/// Moves those processes that are in our own pid namespace out of the group, into ours: CRIU
/// starts in the box's group so that what it restores is born there.
void evict_ours(const Cgroup& cgroup);

}  // namespace box
