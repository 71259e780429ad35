#include "box/last_pid.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#include <charconv>
#include <format>
#include <string>

#include "base/error.h"
#include "base/fd.h"

namespace box {
namespace {

constexpr const char* kImage = "/last-pid";
constexpr const char* kLastPid = "/proc/sys/kernel/ns_last_pid";  // Linux, Documentation/admin-guide/sysctl
constexpr pid_t kMostPids = 1 << 22;                              // PID_MAX_LIMIT

/// A process that is among the box's writes `text` to ns_last_pid, unless it is empty. Returns its pid there.
pid_t visit(pid_t init, const std::string& text) {
  const base::Fd space = base::open(std::format("/proc/{}/ns/pid", init), O_RDONLY);
  base::Pipe answer = base::make_pipe();
  const pid_t child = ::fork();
  if (child < 0) throw base::sys_error("cannot start a process");
  if (child == 0) {
    // Only what is forked after setns is in there.
    if (::setns(space.get(), CLONE_NEWPID) != 0) ::_exit(1);
    const pid_t visitor = ::fork();
    if (visitor != 0) {
      int status = 1;
      ::waitpid(visitor, &status, 0);
      ::_exit(status == 0 ? 0 : 1);
    }
    const pid_t own = ::getpid();
    if (!text.empty()) {
      const int file = ::open(kLastPid, O_WRONLY | O_CLOEXEC);
      if (::write(file, text.data(), text.size()) != static_cast<ssize_t>(text.size())) ::_exit(1);
    }
    ::_exit(::write(answer.write.get(), &own, sizeof own) == sizeof own ? 0 : 1);
  }
  answer.write.close();
  pid_t own = 0;
  ssize_t got = 0;
  while ((got = ::read(answer.read.get(), &own, sizeof own)) < 0 && errno == EINTR) {
  }
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (got != sizeof own || status != 0)
    throw base::error("the box's process numbers cannot be {}", text.empty() ? "read" : "set");
  return own;
}

}  // namespace

void record_last_pid(const std::string& images, pid_t init) {
  base::write_file(images + kImage, std::to_string(visit(init, "")));
}

void restore_last_pid(const std::string& images, pid_t init) {
  const auto text = base::read_file_if_exists(images + kImage, 1024);
  if (!text) return;
  pid_t last = 0;
  const auto [end, failed] = std::from_chars(text->data(), text->data() + text->size(), last);
  if (failed != std::errc() || end != text->data() + text->size() || last < 1 || last >= kMostPids)
    throw base::error("{}{} holds \"{}\", which is no process number", images, kImage, *text);
  visit(init, *text);
}

}  // namespace box
