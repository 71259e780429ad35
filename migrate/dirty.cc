#include "migrate/dirty.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <linux/kcmp.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <format>
#include <iterator>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <utility>

#include "base/error.h"
#include "base/log.h"
#include "box/memory_map.h"
#include "migrate/guard.h"
#include "migrate/inject.h"

namespace migrate {
namespace {

using namespace std::chrono_literals;
using Clock = DirtyMemory::Clock;

// For processes that sleep uninterruptibly: of one call for all of them, and of each one at least.
constexpr auto kPatience = 100ms, kLeastPatience = 5ms;
// A process may begin another program, or map other memory, while it is looked at.
constexpr int kAttempts = 3;
// Of runs that one system call may return.
constexpr size_t kMostRegions = 4096;
constexpr uint64_t kHere = PAGE_IS_PRESENT | PAGE_IS_SWAPPED;
constexpr uint64_t kFeatures = UFFD_FEATURE_WP_ASYNC | UFFD_FEATURE_WP_UNPOPULATED;

std::string proc(pid_t process, std::string_view what) { return std::format("/proc/{}/{}", process, what); }

/// nullopt: it has ended.
std::optional<std::string> read_proc(pid_t process, std::string_view what) {
  return base::read_file_if_exists(proc(process, what));
}

/// PAGEMAP_SCAN over a range, for pages that are there (and were written). False: errno says why.
template <class OnRegion>
bool scan(int pagemap, uint64_t begin, uint64_t end, uint64_t flags, uint64_t must, OnRegion on_region) {
  static thread_local std::vector<page_region> regions(kMostRegions);
  while (begin < end) {
    pm_scan_arg arg{};
    arg.size = sizeof arg;
    arg.flags = flags;
    arg.start = begin;
    arg.end = end;
    arg.vec = reinterpret_cast<uint64_t>(regions.data());
    arg.vec_len = regions.size();
    arg.category_mask = must;
    arg.category_anyof_mask = kHere;
    arg.return_mask = PAGE_IS_WRITTEN;
    const int count = ::ioctl(pagemap, PAGEMAP_SCAN, &arg);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return false;
    for (int i = 0; i < count; ++i) on_region(regions[static_cast<size_t>(i)]);
    if (arg.walk_end <= begin) {
      errno = EIO;
      return false;
    }
    begin = arg.walk_end;
  }
  return true;
}

/// What is written in a range that was tracked. False: not all of it is ours, or no more.
bool take_tracked(int pagemap, uint64_t begin, uint64_t end, std::vector<page_region>& found) {
  found.clear();
  return scan(pagemap, begin, end, PM_SCAN_WP_MATCHING | PM_SCAN_CHECK_WPASYNC, PAGE_IS_WRITTEN,
              [&](const page_region& region) { found.push_back(region); });
}

enum class New { kTracked, kUntracked, kOtherMemory };

/// All that is there in a range that was not tracked; it is from now on.
New take_new(int fault, int pagemap, uint64_t begin, uint64_t end, std::vector<page_region>& found) {
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    found.clear();
    uffdio_register ours{{begin, end - begin}, UFFDIO_REGISTER_MODE_WP, 0};
    if (::ioctl(fault, UFFDIO_REGISTER, &ours) != 0) {
      if (errno == ENOMEM) return New::kOtherMemory;  // its memory is gone: it has begun another program
      break;
    }
    bool whole = true;
    const bool scanned = scan(
        pagemap, begin, end, PM_SCAN_WP_MATCHING | PM_SCAN_CHECK_WPASYNC, 0, [&](const page_region& region) {
          found.push_back(region);
          if (region.categories & PAGE_IS_WRITTEN) return;
          // Moved here (mremap(2)) from where it was tracked it looks protected, and need not be: before
          // Linux 6.15.
          uffdio_writeprotect protect{{region.start, region.end - region.start}, UFFDIO_WRITEPROTECT_MODE_WP};
          if (::ioctl(fault, UFFDIO_WRITEPROTECT, &protect) != 0) whole = false;
        });
    if (scanned && whole) return New::kTracked;
    // Registered, and not here: this is not the memory that the descriptor is of. Or it was mapped anew just
    // now.
    if (attempt + 1 == kAttempts) return New::kOtherMemory;
  }
  // The process has a userfaultfd of its own for it, or it cannot have one: all of it is told each time.
  found.clear();
  scan(pagemap, begin, end, 0, 0, [&](const page_region& region) { found.push_back(region); });
  return New::kUntracked;
}

/// Between vfork(2) and its exec a process has its parent's memory: that is tracked already, or will be.
bool shares_memory(pid_t process) {
  const auto stat = read_proc(process, "stat");
  const size_t name_end = stat ? stat->rfind(") ") : std::string::npos;
  if (name_end == std::string::npos) return false;
  const long parent = std::strtol(stat->c_str() + name_end + 4, nullptr, 10);  // ") S PPID"
  return parent > 0 && ::syscall(SYS_kcmp, process, parent, KCMP_VM, 0, 0) == 0;
}

/// Neither ended nor a zombie. One whose first thread alone has ended is alive, but has no maps.
bool has_memory(pid_t process) {
  const auto maps = read_proc(process, "maps");
  if (!maps) return false;
  if (!maps->empty()) return true;
  std::error_code ignored;
  const std::filesystem::directory_iterator threads(proc(process, "task"), ignored);
  return !ignored && std::distance(begin(threads), end(threads)) > 1;
}

bool have_features(int fault) {
  uffdio_api api{UFFD_API, kFeatures, 0};
  return ::ioctl(fault, UFFDIO_API, &api) == 0;
}

/// An empty Fd: this process cannot be tracked.
base::Fd track(pid_t process, Clock::time_point until) {
  if (shares_memory(process)) return {};
  const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(until - Clock::now());
  base::Fd fault = inject_userfaultfd(process, std::max<std::chrono::milliseconds>(left, kLeastPatience));
  if (fault && !have_features(fault.get())) fault.close();
  return fault;
}

}  // namespace

uint64_t DirtyMemory::Written::bytes() const {
  uint64_t sum = 0;
  for (const Run& run : runs) sum += run.bytes();
  return sum;
}

void DirtyMemory::Written::add(Written later) {
  std::set<uint32_t> anew(later.renewed.begin(), later.renewed.end());
  anew.insert(later.unknown.begin(), later.unknown.end());
  std::erase_if(runs, [&](const Run& run) { return anew.contains(run.pid); });
  std::vector<Run> all;
  auto place = [](const Run& run) { return std::pair(run.pid, run.begin); };
  std::ranges::merge(runs, later.runs, std::back_inserter(all), {}, place, place);
  runs.clear();
  for (const Run& run : all)
    if (!runs.empty() && runs.back().pid == run.pid && run.begin <= runs.back().end)
      runs.back().end = std::max(runs.back().end, run.end);
    else
      runs.push_back(run);
  renewed.insert(renewed.end(), later.renewed.begin(), later.renewed.end());
  unknown.insert(unknown.end(), later.unknown.begin(), later.unknown.end());
}

DirtyMemory::DirtyMemory() { raise_file_limit(); }
DirtyMemory::~DirtyMemory() { let_go(); }

void DirtyMemory::let_go() {
  spaces_.clear();
  told_.clear();
}

bool DirtyMemory::supported() {
#if defined(__x86_64__)
  const base::Fd fault(
      static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY)));
  if (!fault || !have_features(fault.get())) return false;
  const base::Fd pagemap = base::open("/proc/self/pagemap", O_RDONLY);
  return scan(pagemap.get(), 0, 4096, 0, 0, [](const page_region&) {});
#else
  return false;
#endif
}

DirtyMemory::Written DirtyMemory::take(const std::map<pid_t, pid_t>& processes) {
  std::erase_if(spaces_, [&](const auto& space) {
    const auto process = processes.find(static_cast<pid_t>(space.first));
    return process == processes.end() || process->second != space.second.process;
  });
  std::map<uint32_t, Ranges> taken;
  std::vector<uint32_t> fresh, unknown, reading;
  auto taken_or_not = [&](uint32_t pid, pid_t process, Outcome outcome) {
    if (outcome == Outcome::kTaken) return true;
    spaces_.erase(pid);
    taken.erase(pid);
    if (outcome == Outcome::kOtherMemory && has_memory(process)) unknown.push_back(pid);
    return false;
  };
  const auto until = Clock::now() + kPatience;
  for (const auto& [inside, process] : processes) {
    const auto pid = static_cast<uint32_t>(inside);
    const auto [outcome, is_new] = take_process(pid, process, until, taken[pid]);
    if (!taken_or_not(pid, process, outcome) || !is_new) continue;
    fresh.push_back(pid);
    if (spaces_.at(pid).disk.reading()) reading.push_back(pid);
  }
  // Of what is new, anything may be on its way from a disk. When that has ended, only what was written
  // meanwhile may.
  if (!reading.empty()) std::this_thread::sleep_for(DiskReads::kSettle);
  for (const uint32_t pid : reading) {
    Space& space = spaces_.at(pid);
    space.disk = DiskReads(space.process);
    const pid_t process = space.process;
    if (!taken_or_not(pid, process, take_space(space, taken[pid]))) std::erase(fresh, pid);
  }

  Written written;
  for (auto& [pid, ranges] : taken)
    for (const AddressRange& range : box::in_order(std::move(ranges)))
      written.runs.push_back({pid, range.begin, range.end});
  for (const uint32_t pid : fresh)
    if (told_.contains(pid)) written.renewed.push_back(pid);
  for (const uint32_t pid : unknown) told_.erase(pid);
  for (const auto& [pid, space] : spaces_) told_.insert(pid);
  written.unknown = std::move(unknown);
  return written;
}

/// The ranges, and whether the process is new (as what it is now).
std::pair<DirtyMemory::Outcome, bool> DirtyMemory::take_process(uint32_t pid, pid_t process,
                                                                Clock::time_point until, Ranges& ranges) {
  bool is_new = false;
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    ranges.clear();
    auto space = spaces_.find(pid);
    if (space == spaces_.end()) {
      is_new = true;
      if (!has_memory(process)) return {Outcome::kGone, is_new};
      base::Fd fault = track(process, until);
      if (!fault) break;
      space = spaces_.emplace(pid, Space{process, std::move(fault), {}, DiskReads(process)}).first;
    }
    const Outcome outcome = take_space(space->second, ranges);
    if (outcome != Outcome::kOtherMemory) return {outcome, is_new};
    spaces_.erase(space);
  }
  return {Outcome::kOtherMemory, is_new};
}

/// All that there is of one process. Whatever it maps and unmaps meanwhile: a range gets into `tracked` only
/// when the kernel has all of its pages write-protected for us, but for those that were told; and it leaves
/// it as soon as it is not in the maps, or the kernel says that not all of it is ours (any more).
DirtyMemory::Outcome DirtyMemory::take_space(Space& space, Ranges& ranges) try {
  // Anew each time: an open one stays with the memory that the process had then.
  const auto pagemap = base::open_if_exists(proc(space.process, "pagemap"), O_RDONLY);
  const auto maps = read_proc(space.process, "maps");
  if (!pagemap || !maps || maps->empty())
    return has_memory(space.process) ? Outcome::kOtherMemory : Outcome::kGone;
  space.disk.look(maps->contains("/[aio]"));
  const Ranges before = std::exchange(space.tracked, {});
  auto old = before.begin();
  std::vector<page_region> found;
  Ranges told;
  for (const AddressRange& line : box::anonymous_memory(*maps)) {
    for (uint64_t at = line.begin; at < line.end;) {
      while (old != before.end() && old->end <= at) ++old;
      const bool tracked = old != before.end() && old->begin <= at;
      uint64_t until = line.end;
      if (old != before.end()) until = std::min(until, tracked ? old->end : old->begin);
      const bool still = tracked && take_tracked(pagemap->get(), at, until, found);
      const New how = still ? New::kTracked : take_new(space.fault.get(), pagemap->get(), at, until, found);
      if (how == New::kOtherMemory) return Outcome::kOtherMemory;
      if (how == New::kTracked) box::append(space.tracked, at, until);
      for (const page_region& region : found) box::append(told, region.start, region.end);
      at = until;
    }
  }
  for (const AddressRange& range : box::in_order(space.disk.again()))
    scan(pagemap->get(), range.begin, range.end, 0, 0,
         [&](const page_region& region) { ranges.push_back({region.start, region.end}); });
  ranges.insert(ranges.end(), told.begin(), told.end());
  space.disk.told(std::move(told));
  return Outcome::kTaken;
} catch (const base::Error& e) {
  base::debug("memory of process {}: {}", space.process, e.message());
  return Outcome::kOtherMemory;
}

}  // namespace migrate
