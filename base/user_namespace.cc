#include "base/user_namespace.h"

#include <fcntl.h>
#include <pwd.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <format>

#include "base/error.h"
#include "base/fd.h"
#include "base/text.h"

namespace base {
namespace {

/// The ids of Debian's users, nobody (65534) included.
constexpr uint64_t kIds = 65536;
constexpr uint64_t kFirstFree = 100'000;
constexpr const char* kAsRoot = "build as root, with sudo";

/// NAME:FIRST:COUNT.
struct Line {
  std::string_view name;
  IdRange range;
};
std::optional<Line> parse(std::string_view line) {
  size_t first = line.find(':'), second = line.find(':', first + 1);
  if (first == std::string_view::npos || second == std::string_view::npos) return std::nullopt;
  Line parsed = {.name = line.substr(0, first), .range = {}};
  auto number = [](std::string_view text, uint64_t& value) {
    auto [end, problem] = std::from_chars(text.data(), text.data() + text.size(), value);
    return problem == std::errc() && end == text.data() + text.size();
  };
  if (!number(line.substr(first + 1, second - first - 1), parsed.range.first) ||
      !number(line.substr(second + 1), parsed.range.count))
    return std::nullopt;
  return parsed;
}

/// A process that stands in a new user namespace, with nothing else in it, for as long as this lives.
class Holder {
 public:
  Holder() : go_(make_pipe()) {
    Pipe told = make_pipe();
    pid_t parent = ::getpid();
    pid_ = ::fork();
    if (pid_ < 0) throw sys_error("cannot start a process for a user namespace");
    if (pid_ == 0) hold(parent, told.write.get());
    go_.read.close();
    told.write.close();
    int err = EPIPE;  // it ended without a word
    read_full(told.read.get(), std::as_writable_bytes(std::span(&err, 1)));
    if (err == 0) return;
    end();
    throw Error("this machine does not let ordinary users make user namespaces", err)
        .hint(what_forbids_user_namespaces());
  }
  Holder(const Holder&) = delete;
  Holder& operator=(const Holder&) = delete;
  ~Holder() { end(); }

  [[nodiscard]] pid_t pid() const { return pid_; }

 private:
  /// In the child, where only system calls are safe.
  [[noreturn]] void hold(pid_t parent, int told) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() != parent) ::_exit(1);
    ::close(go_.write.get());
    int err = ::unshare(CLONE_NEWUSER) == 0 ? 0 : errno;
    if (::write(told, &err, sizeof err) != sizeof err) ::_exit(1);
    char nothing = 0;
    while (::read(go_.read.get(), &nothing, 1) < 0 && errno == EINTR) continue;
    ::_exit(0);
  }
  void end() {
    go_.write.close();
    while (pid_ > 0 && ::waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) continue;
    pid_ = -1;
  }

  Pipe go_;
  pid_t pid_ = -1;
};

struct Kind {
  const char* file;
  const char* program;
};
constexpr Kind kUsers = {.file = "/etc/subuid", .program = "newuidmap"};
constexpr Kind kGroups = {.file = "/etc/subgid", .program = "newgidmap"};

std::string user_name(uid_t uid) {
  const passwd* user = ::getpwuid(uid);
  return user != nullptr ? user->pw_name : std::to_string(uid);
}

IdRange range_of(const Kind& kind, const std::string& name, uid_t uid) {
  std::string users = read_file_if_exists(kUsers.file).value_or("");
  std::string groups = read_file_if_exists(kGroups.file).value_or("");
  // One is the user's own.
  auto range = find_id_range(kind.file == kUsers.file ? users : groups, name, uid, kIds - 1);
  if (range) return *range;
  uint64_t first = std::max(free_ids_begin(users), free_ids_begin(groups));
  throw error("the user {} has no range of {} ids in {}", name, kIds, kind.file)
      .hint(std::format("sudo usermod --add-subuids {0}-{1} --add-subgids {0}-{1} {2}; or {3}", first,
                        first + kIds - 1, name, kAsRoot));
}

void map_ids(Runner& runner, const Kind& kind, pid_t pid, uint64_t own, const IdRange& range) {
  try {
    runner.run({.argv = {kind.program, std::to_string(pid), "0", std::to_string(own), "1", "1",
                         std::to_string(range.first), std::to_string(kIds - 1)}});
  } catch (const Error& problem) {
    if (problem.err() == ENOENT)
      throw error("{} is not here, and without root a build needs it", kind.program)
          .hint(std::format("install the package uidmap, or {}", kAsRoot));
    throw;
  }
}

bool says(const char* file, std::string_view value) {
  auto text = read_file_if_exists(file);
  return text && text->starts_with(value) && text->substr(value.size()) == "\n";
}

}  // namespace

std::optional<IdRange> find_id_range(std::string_view text, std::string_view name, uid_t uid,
                                     uint64_t least) {
  std::string number = std::to_string(uid);
  for (const std::string& line : lines_of(std::string(text))) {
    auto parsed = parse(line);
    if (parsed && (parsed->name == name || parsed->name == number) && parsed->range.count >= least)
      return parsed->range;
  }
  return std::nullopt;
}

uint64_t free_ids_begin(std::string_view text) {
  uint64_t begin = kFirstFree;
  for (const std::string& line : lines_of(std::string(text)))
    if (auto parsed = parse(line)) begin = std::max(begin, parsed->range.first + parsed->range.count);
  return begin;
}

std::string what_forbids_user_namespaces() {
  std::string setting;
  if (says("/proc/sys/user/max_user_namespaces", "0"))
    setting = "user.max_user_namespaces=65536";
  else if (says("/proc/sys/kernel/unprivileged_userns_clone", "0"))  // Debian's kernel
    setting = "kernel.unprivileged_userns_clone=1";
  else if (says("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1"))  // Ubuntu, from 23.10 on
    setting = "kernel.apparmor_restrict_unprivileged_userns=0";
  return setting.empty() ? kAsRoot : std::format("sudo sysctl -w {}; or {}", setting, kAsRoot);
}

void enter_own_user_namespace(Runner& runner) {
  uid_t uid = ::geteuid();
  gid_t gid = ::getegid();
  std::string name = user_name(uid);
  IdRange users = range_of(kUsers, name, uid), groups = range_of(kGroups, name, uid);
  Holder holder;
  map_ids(runner, kUsers, holder.pid(), uid, users);
  map_ids(runner, kGroups, holder.pid(), gid, groups);
  Fd its = open(std::format("/proc/{}/ns/user", holder.pid()), O_RDONLY);
  if (::setns(its.get(), CLONE_NEWUSER) != 0)
    throw sys_error("cannot enter a user namespace").hint(what_forbids_user_namespaces());
}

}  // namespace base
