#include "image/appliance_guard.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <charconv>
#include <filesystem>
#include <format>

#include "base/context.h"
#include "base/error.h"

namespace image {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds kLookEvery{250};
constexpr std::string_view kMachine = "qemu-system";

/// Name and parent of a process (proc_pid_stat(5)); nullopt when it has ended.
struct About {
  std::string name;
  pid_t parent = 0;
};
std::optional<About> about(const std::string& pid) {
  auto text = base::read_file_if_exists(std::format("/proc/{}/stat", pid));
  if (!text) return std::nullopt;
  size_t open = text->find('('), close = text->rfind(')');
  if (open == std::string::npos || close == std::string::npos || close + 4 > text->size())
    return std::nullopt;
  About found = {.name = text->substr(open + 1, close - open - 1)};
  const char* parent = text->data() + close + 4;  // ") S "
  std::from_chars(parent, text->data() + text->size(), found.parent);
  return found;
}

/// This process's children, with their names.
std::map<pid_t, std::string> children() {
  std::map<pid_t, std::string> found;
  for (const auto& entry : fs::directory_iterator("/proc")) {
    std::string name = entry.path().filename();
    pid_t pid = 0;
    if (std::from_chars(name.data(), name.data() + name.size(), pid).ptr != name.data() + name.size())
      continue;
    if (auto process = about(name); process && process->parent == ::getpid()) found[pid] = process->name;
  }
  return found;
}

std::set<pid_t> pids_of_children() {
  std::set<pid_t> pids;
  for (const auto& [pid, name] : children()) pids.insert(pid);
  return pids;
}

}  // namespace

ApplianceGuard::ApplianceGuard()
    : before_(pids_of_children()),
      wake_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      thread_([this] { watch(); }) {}

ApplianceGuard::~ApplianceGuard() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  ::eventfd_write(wake_.get(), 1);
  thread_.join();
}

void ApplianceGuard::begin(CallLimit limit) {
  std::lock_guard lock(mutex_);
  limit_ = limit;
  began_ = Clock::now();
  machines_.clear();
  why_ = Why::kNothing;
  ::eventfd_write(wake_.get(), 1);
}

ApplianceGuard::Why ApplianceGuard::end() {
  std::lock_guard lock(mutex_);
  limit_.reset();
  return why_;
}

void ApplianceGuard::watch() {
  while (true) {
    bool armed = false;
    {
      std::lock_guard lock(mutex_);
      if (stop_) return;
      armed = limit_.has_value();
      if (armed && why_ == Why::kNothing) why_ = reason();
      if (armed && why_ != Why::kNothing) kill_children();
    }
    pollfd wake = {.fd = wake_.get(), .events = POLLIN, .revents = 0};
    ::poll(&wake, 1, armed ? static_cast<int>(kLookEvery.count()) : -1);
    eventfd_t ignored = 0;
    ::eventfd_read(wake_.get(), &ignored);
  }
}

ApplianceGuard::Why ApplianceGuard::reason() {
  pollfd asked = {.fd = base::interrupt_fd(), .events = POLLIN, .revents = 0};
  if (asked.fd >= 0 && ::poll(&asked, 1, 0) == 1) return Why::kInterrupted;
  Clock::time_point now = Clock::now();
  if (now - began_ > limit_->all) return Why::kTooLong;
  if (!limit_->boot) return Why::kNothing;
  for (const auto& [pid, name] : children()) {
    if (!name.starts_with(kMachine) || before_.contains(pid)) continue;
    if (now - machines_.try_emplace(pid, now).first->second > *limit_->boot) return Why::kTooLong;
  }
  return Why::kNothing;
}

/// Again and again until the call has returned: libguestfs may start the next one.
void ApplianceGuard::kill_children() {
  for (const auto& [pid, name] : children()) {
    if (!before_.contains(pid)) ::kill(pid, SIGKILL);
  }
}

}  // namespace image
