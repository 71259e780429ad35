#include "migrate/change_watch.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/fanotify.h>
#include <sys/stat.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <format>
#include <mutex>
#include <optional>
#include <string_view>
#include <thread>

#include "base/error.h"
#include "base/fd.h"
#include "base/kernel.h"
#include "base/log.h"

namespace migrate {
namespace {

using base::Fd;

// Each event names the object; one about a name also the directory and the name in it.
constexpr unsigned kReport = FAN_REPORT_DFID_NAME_TARGET;
constexpr uint64_t kAboutNames = FAN_CREATE | FAN_DELETE | FAN_MOVED_FROM | FAN_MOVED_TO;
constexpr uint64_t kAboutFiles = FAN_MODIFY | FAN_ATTRIB | FAN_CLOSE_WRITE;
// Beyond so many, looking at everything is no dearer.
constexpr size_t kMostChanges = 1 << 20;
constexpr size_t kMostHandles = 1 << 18;
constexpr int kPauseMs = 20;

/// Before Linux 6.5 overlayfs opened its files below without notification.
bool overlay_tells() { return base::kernel_version() >= std::pair(6, 5); }

}  // namespace

/// The kernel's queue, and what was taken off it. Filled by the thread and by take(), one at a time.
struct ChangeWatch::Queue {
  Fd root, events, stop;
  std::mutex mutex;
  Changes changes;
  size_t count = 0;                              ///< of what is in changes
  bool broken = false;                           ///< nothing more will be heard
  std::unordered_map<std::string, ino_t> known;  ///< file handle → inode
  std::thread thread;

  void run() {
    std::array<pollfd, 2> wait = {{{.fd = events.get(), .events = POLLIN, .revents = 0},
                                   {.fd = stop.get(), .events = POLLIN, .revents = 0}}};
    while (::poll(wait.data(), wait.size(), -1) >= 0 || errno == EINTR) {
      if (wait[1].revents != 0) return;
      {
        const std::scoped_lock lock(mutex);
        drain();
        if (broken) return;
      }
      // Meanwhile the kernel makes one event of many that say the same.
      if (::poll(&wait[1], 1, kPauseMs) > 0) return;
    }
    const std::scoped_lock lock(mutex);
    broken = true;
  }

  /// Until the queue was empty for a moment.
  void drain() {
    constexpr size_t kLongestEvent = 1024;  // two handles of MAX_HANDLE_SZ and a name
    alignas(fanotify_event_metadata) std::array<char, 64 << 10> buffer;
    while (!broken) {
      ssize_t got = ::read(events.get(), buffer.data(), buffer.size());
      if (got < 0 && errno == EINTR) continue;
      if (got < 0 && errno == EAGAIN) return;
      if (got <= 0) {
        broken = true;
        return;
      }
      const auto* event = reinterpret_cast<const fanotify_event_metadata*>(buffer.data());
      for (auto left = got; FAN_EVENT_OK(event, left); event = FAN_EVENT_NEXT(event, left)) take(*event);
      if (static_cast<size_t>(got) + kLongestEvent < buffer.size()) return;
    }
  }

  void take(const fanotify_event_metadata& event) {
    if (event.vers != FANOTIFY_METADATA_VERSION || (event.mask & FAN_Q_OVERFLOW) != 0)
      return lost("events were dropped");
    if (changes.all) return;
    bool placed = false;
    const char* at = reinterpret_cast<const char*>(&event) + event.metadata_len;
    const char* end = reinterpret_cast<const char*>(&event) + event.event_len;
    while (at + sizeof(fanotify_event_info_header) <= end) {
      const auto* record = reinterpret_cast<const fanotify_event_info_fid*>(at);
      if (record->hdr.len < sizeof *record) break;
      const auto* handle = reinterpret_cast<const file_handle*>(record->handle);
      const size_t handle_size = sizeof *handle + handle->handle_bytes;
      if (handle->handle_bytes == 0 ||
          offsetof(fanotify_event_info_fid, handle) + handle_size > record->hdr.len)
        return lost("an event names no file");
      const auto ino = inode(*handle, handle_size);
      if (record->hdr.info_type == FAN_EVENT_INFO_TYPE_FID) {
        placed = true;
        if (ino) add(*ino);
      } else if (record->hdr.info_type == FAN_EVENT_INFO_TYPE_DFID_NAME) {
        placed = true;
        const char* name = reinterpret_cast<const char*>(handle) + handle_size;
        const size_t room = static_cast<size_t>(at + record->hdr.len - name);
        if (ino) about_name(event.mask, *ino, std::string_view(name, ::strnlen(name, room)));
      }
      at += record->hdr.len;
    }
    if (!placed) lost("an event names nothing");
    if (count > kMostChanges) lost("too much");
  }

  /// With a file's own event come its directory and a name of it, which are not what has changed.
  void about_name(uint64_t mask, ino_t directory, std::string_view name) {
    if ((mask & kAboutNames) != 0) {
      add(directory);
      count += changes.names[directory].insert(std::string(name)).second;
    } else if (name == ".") {
      add(directory);
    }
  }

  void add(ino_t ino) { count += changes.files.insert(ino).second; }

  void lost(const std::string& why) {
    if (!changes.all) base::debug("what has changed is not known: {}", why);
    changes = {.all = true, .files = {}, .names = {}};
    count = 0;
  }

  [[nodiscard]] Fd open_handle(const file_handle& handle) const {
    return Fd(::open_by_handle_at(root.get(), const_cast<file_handle*>(&handle), O_PATH | O_CLOEXEC));
  }

  /// nullopt: it is gone, and with it all its names, which have events of their own.
  std::optional<ino_t> inode(const file_handle& handle, size_t size) {
    std::string key(reinterpret_cast<const char*>(&handle), size);
    if (auto found = known.find(key); found != known.end()) return found->second;
    Fd fd = open_handle(handle);
    // ext4 says so, too, of an inode number that is being used anew at this moment (iget_locked() and
    // I_CREATING, 6.18): the handle's inode is gone, as the next try tells.
    for (int tries = 0; !fd && errno == ENOMEM && tries < 100; ++tries) {
      std::this_thread::sleep_for(std::chrono::microseconds(100));
      fd = open_handle(handle);
    }
    struct stat status;
    if (!fd || ::fstat(fd.get(), &status) != 0) {
      if (errno != ESTALE && errno != ENOENT)
        lost(std::format("a file handle cannot be opened: {}", std::strerror(errno)));
      return std::nullopt;
    }
    if (known.size() >= kMostHandles) known.clear();
    known.emplace(std::move(key), status.st_ino);
    return status.st_ino;
  }
};

std::unique_ptr<ChangeWatch> ChangeWatch::start(int root) {
  auto cannot = [](const char* why) {
    base::debug("changes are not watched, all files are looked at: {}: {}", why, std::strerror(errno));
    return nullptr;
  };
  errno = EOPNOTSUPP;
  if (!overlay_tells()) return cannot("Linux before 6.5");
  auto queue = std::make_unique<Queue>();
  queue->root = base::duplicate(root);
  queue->events = Fd(::fanotify_init(
      FAN_CLASS_NOTIF | FAN_CLOEXEC | FAN_NONBLOCK | FAN_UNLIMITED_QUEUE | kReport, O_RDONLY | O_CLOEXEC));
  if (!queue->events) return cannot("fanotify_init");
  if (::fanotify_mark(queue->events.get(), FAN_MARK_ADD | FAN_MARK_FILESYSTEM,
                      kAboutNames | kAboutFiles | FAN_ONDIR, root, nullptr) != 0)
    return cannot("fanotify_mark");
  queue->stop = Fd(::eventfd(0, EFD_CLOEXEC));
  if (!queue->stop) throw base::sys_error("cannot make an eventfd");
  return std::unique_ptr<ChangeWatch>(new ChangeWatch(std::move(queue)));
}

ChangeWatch::ChangeWatch(std::unique_ptr<Queue> queue)
    : queue_(std::move(queue)),
      taken_(static_cast<uint64_t>(std::chrono::steady_clock::now().time_since_epoch().count())) {
  sigset_t all, before;  // signals are for the thread that waits for children and the other node
  ::sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &before);
  try {
    queue_->thread = std::thread([queue = queue_.get()] { queue->run(); });
  } catch (...) {
    ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
    throw;
  }
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

ChangeWatch::~ChangeWatch() {
  const uint64_t one = 1;
  (void)!::write(queue_->stop.get(), &one, sizeof one);
  queue_->thread.join();
}

Changes ChangeWatch::take() {
  const std::scoped_lock lock(queue_->mutex);
  queue_->drain();
  if (queue_->broken) queue_->lost("its events cannot be read");
  ++taken_;
  queue_->count = 0;
  return std::exchange(queue_->changes, {});
}

}  // namespace migrate
