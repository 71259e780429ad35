#include "migrate/tree_scan.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>

#include "base/error.h"
#include "migrate/tree.h"
#include "migrate/tree_format.h"
#include "migrate/tree_walk.h"

namespace migrate {
namespace {

using base::error;
using Node = TreeSnapshot::Node;

/// Wraps for years that 64 bits of nanoseconds do not hold; equality is all that is asked of it.
uint64_t nanoseconds(const timespec& time) {
  return static_cast<uint64_t>(time.tv_sec) * kNanoseconds + static_cast<uint64_t>(time.tv_nsec);
}

}  // namespace

TreeScan::TreeScan(int root, bool final, const std::function<void()>& check)
    // Opened anew, with O_NOATIME: the scan itself must not change what it compares.
    : root_(open_beneath(root, ".", O_RDONLY | O_DIRECTORY | O_NOATIME)),
      final_(final),
      check_(check),
      chain_(root_.get()) {
  struct stat status;
  if (!root_ || ::fstat(root_.get(), &status) != 0)
    throw base::sys_error("cannot look at the directory to send");
  device_ = status.st_dev;
  names_.push_back('\0');
  take(nodes_.emplace_back(), status);
}

void TreeScan::directory(uint32_t at) {
  if (chain_.depth() > kMaxTreeDepth)
    throw error("{} is nested deeper than {} directories, more than a box can take along", chain_.path(),
                kMaxTreeDepth);
  if (!list(at)) return vanished(at);
  uint32_t first = nodes_[at].first, end = first + nodes_[at].count;
  for (uint32_t child = first; child < end; ++child) {
    if (!S_ISDIR(nodes_[child].mode) || nodes_[child].absent) continue;
    chain_.enter(snapshot_.name(nodes_[child]));
    directory(child);
    chain_.leave();
  }
}

bool TreeScan::list(uint32_t at) {
  int fd = open_directory();
  size_t from = names_.size();
  if (fd < 0 || !read_names(fd, names_)) return false;
  if (names_.size() > UINT32_MAX || nodes_.size() + (names_.size() - from) / 2 >= UINT32_MAX)
    throw error("there are too many files at {}", chain_.path());

  auto first = static_cast<uint32_t>(nodes_.size());
  for (size_t name = from; name < names_.size();) {
    size_t length = std::strlen(&names_[name]);
    Node& node = nodes_.emplace_back();
    node.name_at = static_cast<uint32_t>(name);
    node.name_length = static_cast<uint8_t>(length);
    name += length + 1;
  }
  std::sort(nodes_.begin() + first, nodes_.end(),
            [&](const Node& a, const Node& b) { return snapshot_.name(a) < snapshot_.name(b); });
  nodes_[at].first = first;
  nodes_[at].count = static_cast<uint32_t>(nodes_.size()) - first;
  for (uint32_t child = first; child < nodes_.size(); ++child)
    if (!look(fd, child)) vanished(child);
  return true;
}

int TreeScan::open_directory() {
  if (check_) check_();
  int fd = chain_.try_fd();
  if (fd < 0 && errno == EXDEV) throw error("something is mounted at {}", chain_.path());
  return fd;
}

bool TreeScan::look(int directory, uint32_t at) {
  struct stat status;
  Node& node = nodes_[at];
  if (::fstatat(directory, &names_[node.name_at], &status, AT_SYMLINK_NOFOLLOW) != 0) return false;
  if (status.st_dev != device_) throw error("something is mounted at {}", chain_.path(snapshot_.name(node)));
  take(node, status);
  return true;
}

void TreeScan::take(Node& node, const struct stat& status) {
  node.ino = status.st_ino;
  node.ctime_ns = nanoseconds(status.st_ctim);
  node.mtime_ns = nanoseconds(status.st_mtim);
  node.atime_ns = nanoseconds(status.st_atim);
  node.size = static_cast<uint64_t>(status.st_size);
  node.mode = status.st_mode;
  node.whiteout = is_whiteout(status);
  node.linked = status.st_nlink > 1 && !S_ISDIR(status.st_mode);
}

void TreeScan::vanished(uint32_t at) {
  bool gone = errno == ENOENT || errno == ENOTDIR || errno == ELOOP;
  if (final_ || !gone || at == 0)
    throw base::sys_error("cannot read {}", chain_.path(snapshot_.name(nodes_[at])));
  nodes_[at].absent = true;
}

TreeSnapshot scan_tree(int root, bool final, const std::function<void()>& check) {
  TreeScan scan(root, final, check);
  scan.directory(0);
  return std::move(scan.snapshot_);
}

namespace {
// ctime advances in ticks of up to 10 ms (CONFIG_HZ=100), and lags behind the clock by as much.
constexpr uint64_t kTickSlack = 20'000'000;
// Far above what NTP's slewing does to the two clocks' distance in one scan: it does nothing.
constexpr int64_t kClockSet = 5'000'000;

uint64_t wall_ns(base::Clock& clock) {
  return static_cast<uint64_t>(
      std::chrono::duration_cast<std::chrono::nanoseconds>(clock.wall().time_since_epoch()).count());
}

uint64_t steady_ns(base::Clock& clock) {
  return static_cast<uint64_t>(
      std::chrono::duration_cast<std::chrono::nanoseconds>(clock.now().time_since_epoch()).count());
}
}  // namespace

ScanStart::ScanStart(base::Clock& clock)
    : clock_(clock), start_ns_(wall_ns(clock) - kTickSlack), offset_ns_(start_ns_ - steady_ns(clock)) {}

uint64_t ScanStart::mark_dirty(TreeSnapshot& snapshot) const {
  // mtime is not asked: it can be set to any year, and where a write moves it, it moves ctime, too.
  uint64_t offset = wall_ns(clock_) - kTickSlack - steady_ns(clock_);
  bool clock_was_set = std::abs(static_cast<int64_t>(offset - offset_ns_)) > kClockSet;
  uint64_t files = 0;
  for (Node& node : snapshot.nodes_) {
    node.dirty = clock_was_set || node.ctime_ns >= start_ns_;
    files += node.dirty && S_ISREG(node.mode) && !node.absent;
  }
  return files;
}

}  // namespace migrate
