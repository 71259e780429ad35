#include "migrate/huge.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <format>
#include <fstream>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/context.h"
#include "base/fd.h"
#include "base/log.h"
#include "box/cgroup.h"

namespace migrate {
namespace {

using Clock = std::chrono::steady_clock;

constexpr uint64_t kPage = 4096;
constexpr uint64_t kBlock = 2 << 20;
constexpr size_t kPagesOfBlock = kBlock / kPage;
// So many pages of a block may be missing: 3 %, which the box then has more of.
constexpr size_t kMostMissing = 16;
// Less than this costs a dump less than the way here.
constexpr uint64_t kWorthIt = 64 << 20;
// What the box may still take until its limit, so that it does not meet it because of us.
constexpr uint64_t kRoom = 64 << 20;
// So many blocks one after the other that the kernel refuses, before we leave a process be.
constexpr int kMostRefused = 4;

// Bits of an entry of /proc/PID/pagemap (admin-guide/mm/pagemap.rst).
constexpr uint64_t kPresent = 1ULL << 63;
constexpr uint64_t kOfFile = 1ULL << 61;
constexpr uint64_t kExclusive = 1ULL << 56;  // not set for the page of zeros either

struct Range {
  uint64_t start, end;
  [[nodiscard]] uint64_t size() const { return end - start; }
};

struct Process {
  base::Fd pidfd;
  base::Fd pagemap;
  std::vector<uint64_t> blocks;  ///< addresses
};

bool are_allowed() {
  const auto enabled = base::read_file_if_exists("/sys/kernel/mm/transparent_hugepage/enabled");
  return enabled && !enabled->contains("[never]");
}

std::optional<uint64_t> number_in(const std::string& path) {
  const auto text = base::read_file_if_exists(path);
  uint64_t number = 0;
  if (!text || std::from_chars(text->data(), text->data() + text->size(), number).ec != std::errc())
    return std::nullopt;  // "max"
  return number;
}

/// False where the process's control group, or one above, is nearly full (memory.max of cgroup-v2.rst).
bool has_room(pid_t pid) {
  std::ifstream in(std::format("/proc/{}/cgroup", pid));
  for (std::string line; std::getline(in, line);) {
    if (!line.starts_with("0::/")) continue;
    for (std::string group = line.substr(3); group.size() > 1; group.resize(group.rfind('/'))) {
      const std::string dir = box::cgroup_mount() + group;
      const auto most = number_in(dir + "/memory.max"), now = number_in(dir + "/memory.current");
      if (most && now && *now + kRoom > *most) return false;
    }
  }
  return true;
}

/// Private memory with no file behind it, in whole blocks. proc_pid_maps(5): "start-end perms offset dev
/// inode name".
std::vector<Range> anonymous_mappings(pid_t pid) {
  std::vector<Range> found;
  std::ifstream in(std::format("/proc/{}/maps", pid));
  for (std::string line; std::getline(in, line);) {
    uint64_t start = 0, end = 0, inode = 0;
    char writable = 0, shared = 0;
    int name = 0;
    if (std::sscanf(line.c_str(), "%lx-%lx %*c%c%*c%c %*s %*s %lu %n", &start, &end, &writable, &shared,
                    &inode, &name) != 5)
      continue;
    if (writable != 'w' || shared != 'p' || inode != 0 || line.substr(static_cast<size_t>(name)) == "[stack]")
      continue;
    start = (start + kBlock - 1) / kBlock * kBlock;
    end = end / kBlock * kBlock;
    if (start < end) found.push_back({start, end});
  }
  return found;
}

/// Those parts of `range` that are in huge pages.
std::vector<Range> huge_parts(int pagemap, const Range& range) {
  std::vector<Range> found;
  std::vector<page_region> regions(512);
  for (uint64_t at = range.start; at < range.end;) {
    pm_scan_arg scan{.size = sizeof scan,
                     .flags = 0,
                     .start = at,
                     .end = range.end,
                     .walk_end = 0,
                     .vec = reinterpret_cast<uint64_t>(regions.data()),
                     .vec_len = regions.size(),
                     .max_pages = 0,
                     .category_inverted = 0,
                     .category_mask = PAGE_IS_HUGE,
                     .category_anyof_mask = 0,
                     .return_mask = PAGE_IS_HUGE};
    const int count = ::ioctl(pagemap, PAGEMAP_SCAN, &scan);
    if (count < 0 || scan.walk_end <= at) break;
    for (const auto& region : std::span(regions).first(static_cast<size_t>(count)))
      found.push_back({region.start, region.end});
    at = scan.walk_end;
  }
  return found;
}

/// The blocks of a mapping whose pages are its own, one by one, and small.
void add_blocks(int pagemap, const Range& mapping, std::vector<uint64_t>& out) {
  const std::vector<Range> huge = huge_parts(pagemap, mapping);
  auto next = huge.begin();
  std::vector<uint64_t> entries(kPagesOfBlock * 32);
  for (uint64_t from = mapping.start; from < mapping.end; from += entries.size() * kPage) {
    const size_t want = std::min<uint64_t>(entries.size(), (mapping.end - from) / kPage);
    const ssize_t got = ::pread(pagemap, entries.data(), want * sizeof entries[0],
                                static_cast<off_t>(from / kPage * sizeof entries[0]));
    if (got < static_cast<ssize_t>(want * sizeof entries[0])) return;  // it has ended
    for (size_t first = 0; first < want; first += kPagesOfBlock) {
      const uint64_t block = from + first * kPage;
      while (next != huge.end() && next->end <= block) ++next;
      if (next != huge.end() && next->start <= block) continue;
      const auto own = std::ranges::count_if(
          std::span(entries).subspan(first, kPagesOfBlock),
          [](uint64_t e) { return (e & (kPresent | kExclusive | kOfFile)) == (kPresent | kExclusive); });
      if (static_cast<size_t>(own) + kMostMissing < kPagesOfBlock) continue;
      out.push_back(block);
    }
  }
}

std::optional<Process> look_at(pid_t pid) {
  if (!has_room(pid)) return std::nullopt;
  Process process{
      .pidfd = base::Fd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0))), .pagemap = {}, .blocks = {}};
  auto pagemap = base::open_if_exists(std::format("/proc/{}/pagemap", pid), O_RDONLY);
  if (!process.pidfd || !pagemap) return std::nullopt;  // it has ended
  process.pagemap = std::move(*pagemap);
  for (const Range& mapping : anonymous_mappings(pid))
    add_blocks(process.pagemap.get(), mapping, process.blocks);
  return process;
}

enum class Answer { kDone, kRefused, kLeaveProcess, kEnd };

/// One block a call: longer ranges took as long in all (1.2 GB of a redis: 3.1 s at 2 MiB, 3.3 s at 128 MiB a
/// call), and its client then waited 9 to 14 ms for an answer instead of 5, which it did without all this
/// too.
Answer collapse_block(const Process& process, uint64_t block, int& refused) {
  iovec memory{reinterpret_cast<void*>(block), kBlock};
  if (::syscall(SYS_process_madvise, process.pidfd.get(), &memory, 1, MADV_COLLAPSE, 0) >= 0) {
    refused = 0;
    return Answer::kDone;
  }
  switch (errno) {
    case EAGAIN:  // some page in it was in use
      return Answer::kRefused;
    case EINVAL:  // it does not want any, here or at all
      return ++refused < kMostRefused ? Answer::kRefused : Answer::kLeaveProcess;
    case ENOMEM:  // no huge page to be had, or the mapping has gone
    case EBUSY:   // its control group may have no more
      return ++refused < kMostRefused ? Answer::kRefused : Answer::kEnd;
    default:  // ESRCH: it has ended
      return Answer::kLeaveProcess;
  }
}

}  // namespace

Collapsed collapse(const std::map<pid_t, pid_t>& processes, std::chrono::milliseconds most) {
  const auto start = Clock::now();
  Collapsed done;
  if (!are_allowed()) return done;
  std::vector<Process> worth;
  uint64_t small = 0;
  for (const auto& [inside, pid] : processes) {
    auto process = look_at(pid);
    if (!process || process->blocks.empty()) continue;
    small += process->blocks.size() * kBlock;
    worth.push_back(std::move(*process));
  }
  bool goes_on = small >= kWorthIt;
  for (const Process& process : worth) {
    int refused = 0;
    for (const uint64_t block : process.blocks) {
      base::check_interrupt();
      if (!goes_on || Clock::now() - start >= most) break;
      const Answer answer = collapse_block(process, block, refused);
      if (answer == Answer::kDone) done.bytes += kBlock;
      goes_on = answer != Answer::kEnd;
      if (answer == Answer::kLeaveProcess) break;
    }
  }
  done.ms = std::chrono::duration<double, std::milli>(Clock::now() - start).count();
  base::debug("{} of {} MiB gathered into huge pages in {:.0f} ms", done.bytes >> 20, small >> 20, done.ms);
  return done;
}

}  // namespace migrate
