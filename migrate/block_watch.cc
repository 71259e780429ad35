#include "migrate/block_watch.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <functional>
#include <mutex>
#include <set>
#include <thread>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/fd.h"
#include "base/log.h"
#include "migrate/trace_points.h"
#include "migrate/tree_blocks.h"

namespace migrate {
namespace {

using base::Fd;

// Of one file; with more, reading all of it is not much dearer.
constexpr size_t kMostRanges = 1 << 18;
constexpr int kPauseMs = 50;

/// Its content is in memory that is the disk itself: no page of it is ever marked.
bool is_dax(int fd) {
  struct statx status{};
  return ::statx(fd, "", AT_EMPTY_PATH, STATX_TYPE, &status) != 0 ||
         (status.stx_attributes & STATX_ATTR_DAX) != 0;
}

}  // namespace

/// Filled by the thread and by look(), one at a time.
struct BlockWatch::State {
  struct File {
    uint64_t since = 0;  ///< number of the last look; 0: it told nothing
    BlockRanges written;
    size_t merged = 0;     ///< of `written`, when it was merged last
    BlockRanges prepared;  ///< for all time: nobody tells when the zeros are there
    bool given_up = false;
  };

  explicit State(size_t size) : buffer_size(size) {}

  const TracePoints points;
  const size_t buffer_size;
  Fd stop;
  std::mutex mutex;
  std::unique_ptr<WriteEvents> events;
  std::map<ino_t, File> files;
  uint64_t number = static_cast<uint64_t>(std::chrono::steady_clock::now().time_since_epoch().count());
  bool broken = false;  ///< no more files can be followed
  std::thread thread;

  void run() {
    std::vector<pollfd> wait(1, {.fd = stop.get(), .events = POLLIN, .revents = 0});
    for (const int fd : events->descriptors()) wait.push_back({.fd = fd, .events = POLLIN, .revents = 0});
    // A processor that goes and comes again takes longer than that.
    while (::poll(wait.data(), wait.size(), kPauseMs) >= 0 || errno == EINTR) {
      if (wait[0].revents != 0) return;
      const std::scoped_lock lock(mutex);
      drain();
    }
  }

  void start_thread() {
    sigset_t all, before;  // signals are for the thread that waits for children and the other node
    ::sigfillset(&all);
    ::pthread_sigmask(SIG_SETMASK, &all, &before);
    try {
      thread = std::thread([this] { run(); });
    } catch (...) {
      ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
      throw;
    }
    ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }

  void stop_thread() {
    if (!thread.joinable()) return;
    const uint64_t one = 1;
    (void)!::write(stop.get(), &one, sizeof one);
    thread.join();
  }

  void drain() {
    if (!events) return;
    const bool whole = events->drain([this](const WriteEvent& event) {
      if (const auto found = files.find(event.file); found != files.end()) see(event, found->second);
    });
    if (whole) return;
    base::debug("what is written to large files is not known: events were lost");
    // Among them may have been one of what is still to come.
    for (auto& [ino, file] : files) file.given_up = true;
  }

  static void see(const WriteEvent& event, File& file) {
    switch (event.what) {
      case WriteEvent::What::kWritten:
        if (file.since != 0) add(file, event.blocks);
        break;
      case WriteEvent::What::kPrepared:
        file.prepared.push_back(event.blocks);
        if (file.prepared.size() % 1024 == 0) merge(file.prepared);
        if (file.prepared.size() > kMostRanges) file.given_up = true;
        break;
      case WriteEvent::What::kUnknown:
        file.since = 0;
        break;
      case WriteEvent::What::kMoved:
        file.given_up = true;
        break;
    }
  }

  static void add(File& file, BlockRange range) {
    file.written.push_back(range);
    if (file.written.size() < 2 * file.merged + 1024) return;
    merge(file.written);
    file.merged = file.written.size();
    if (file.merged > kMostRanges) file.since = 0;
  }
};

std::unique_ptr<BlockWatch> BlockWatch::start(int root, size_t buffer) {
  try {
    struct statfs system;
    if (::fstatfs(root, &system) != 0) throw base::sys_error("cannot look at the tree");
    if (static_cast<unsigned long>(system.f_type) != EXT4_SUPER_MAGIC) throw base::error("it is no ext4");
    if (::sysconf(_SC_PAGESIZE) != static_cast<long>(kBlockSize)) throw base::error("pages are large");
    auto state = std::make_unique<State>(buffer);
    state->stop = Fd(::eventfd(0, EFD_CLOEXEC));
    if (!state->stop) throw base::sys_error("cannot make an eventfd");
    return std::unique_ptr<BlockWatch>(new BlockWatch(std::move(state)));
  } catch (const std::exception& e) {
    base::debug("large files are read whole: {}", e.what());
    return nullptr;
  }
}

BlockWatch::BlockWatch(std::unique_ptr<State> state) : state_(std::move(state)) {}
BlockWatch::~BlockWatch() { state_->stop_thread(); }

bool BlockWatch::follows(ino_t ino) const {
  const std::scoped_lock lock(state_->mutex);
  return state_->files.contains(ino);
}

void BlockWatch::follow(const std::map<ino_t, uint64_t>& files) {
  std::vector<std::pair<uint64_t, ino_t>> wanted;
  for (const auto& [ino, size] : files)
    if (!state_->files.contains(ino)) wanted.emplace_back(size, ino);
  if (wanted.empty() || state_->broken) return;
  std::ranges::sort(wanted, std::greater{});
  wanted.resize(std::min(wanted.size(), WriteEvents::kMostFiles - state_->files.size()));
  std::set<ino_t> all;
  for (const auto& [ino, file] : state_->files) all.insert(ino);
  for (const auto& [size, ino] : wanted) all.insert(ino);
  if (all.size() == state_->files.size()) return;
  try {
    // The old ones tell until the new ones do.
    auto events = std::make_unique<WriteEvents>(state_->points, all, state_->buffer_size);
    state_->stop_thread();
    state_->drain();
    state_->events = std::move(events);
    for (const ino_t ino : all) state_->files.try_emplace(ino);
    state_->stop = Fd(::eventfd(0, EFD_CLOEXEC));
    if (!state_->stop) throw base::sys_error("cannot make an eventfd");
    state_->start_thread();
  } catch (const std::exception& e) {
    base::debug("large files are read whole: {}", e.what());
    state_->broken = true;
  }
}

std::optional<BlockRanges> BlockWatch::look(int fd, ino_t ino, uint64_t size, bool frozen,
                                            const FileLook* before, FileLook& now) {
  uint64_t since = 0;
  BlockRanges written;
  {
    const std::scoped_lock lock(state_->mutex);
    const auto known = state_->files.find(ino);
    if (known == state_->files.end() || is_dax(fd)) return std::nullopt;
    state_->drain();
    auto& file = known->second;
    if (file.given_up) return std::nullopt;
    now.number = ++state_->number;
    since = std::exchange(file.since, now.number);
    written = std::exchange(file.written, {});
    written.insert(written.end(), file.prepared.begin(), file.prepared.end());
    file.merged = 0;
  }
  // From now on a write of a page that was told already is told again.
  if (!frozen && ::fdatasync(fd) != 0) throw base::sys_error("cannot bring a large file to disk");
  auto extents = extents_of(fd);
  if (!extents) {
    now = {};
    return std::nullopt;
  }
  now.extents = std::move(*extents);
  now.blocks = blocks_of(size);
  if (!before || before->number == 0 || before->number != since) return std::nullopt;
  return doubtful(*before, now, std::move(written));
}

}  // namespace migrate
