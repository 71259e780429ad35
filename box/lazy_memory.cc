#include "box/lazy_memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <filesystem>
#include <format>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "base/error.h"
#include "base/log.h"

namespace box {
namespace {

constexpr uint64_t kPage = 4096;
// Of a process, and of a mapping: CRIU takes less time for less than this than we do.
constexpr uint64_t kWorthItKib = 4096, kLeastMapping = 128 << 10;
// For runs: 400 MB, of which there is as much as is written to. What does not fit in, CRIU sees as ever.
constexpr uint64_t kRoom = 1 << 24;
constexpr uint64_t kMostRanges = 1 << 18;  // a process has some 65,000 mappings at most (vm.max_map_count)

/// A line of /proc/PID/status (proc_pid_status(5)) without its name.
std::string_view line_of(std::string_view status, std::string_view name) {
  const size_t at = status.find(std::format("\n{}:", name));
  if (at == std::string_view::npos) return {};
  const std::string_view rest = status.substr(at + name.size() + 2);
  return rest.substr(0, rest.find('\n'));
}

uint64_t number_of(std::string_view status, std::string_view name) {
  std::string_view line = line_of(status, name);
  line.remove_prefix(std::min(line.size(), line.find_first_not_of(" \t")));
  uint64_t number = 0;
  std::from_chars(line.data(), line.data() + line.size(), number);
  return number;
}

/// The pages that the threads' stack pointers point to: these CRIU takes into its images (is_stack() of
/// criu/mem.c). nullopt where that is not known.
std::optional<std::vector<AddressRange>> stack_pages(pid_t process) {
  std::vector<AddressRange> pages;
  std::error_code error;
  for (const auto& thread :
       std::filesystem::directory_iterator(std::format("/proc/{}/task", process), error)) {
    // "number arguments… sp pc", or "-1 sp pc" (proc_pid_syscall(5)).
    const auto text = base::read_file_if_exists(thread.path().string() + "/syscall");
    if (!text) return std::nullopt;
    const size_t pc = text->rfind(" 0x"), sp = pc == std::string::npos ? pc : text->rfind(" 0x", pc - 1);
    if (sp == std::string::npos) return std::nullopt;
    uint64_t address = 0;
    std::from_chars(text->data() + sp + 3, text->data() + pc, address, 16);
    pages.push_back({address & ~(kPage - 1), (address & ~(kPage - 1)) + kPage});
  }
  if (error) return std::nullopt;
  return in_order(std::move(pages));
}

}  // namespace

std::vector<AddressRange> lazy_ranges(pid_t process) {
  const auto status = base::read_file_if_exists(std::format("/proc/{}/status", process));
  if (!status || number_of(*status, "RssAnon") + number_of(*status, "VmSwap") < kWorthItKib) return {};
  // Locked memory is never lazy, and only /proc/PID/smaps says which it is: it takes as long as CRIU. So does
  // what is a shadow stack.
  if (number_of(*status, "VmLck") != 0 || line_of(*status, "x86_Thread_features").contains("shstk"))
    return {};
  const auto maps = base::read_file_if_exists(std::format("/proc/{}/maps", process));
  const auto stacks = stack_pages(process);
  std::vector<AddressRange> ranges;
  if (!maps || !stacks) return ranges;
  for (const AddressRange& mapping : anonymous_memory(*maps))
    if (mapping.size() >= kLeastMapping) subtract(mapping, *stacks, ranges);
  return ranges;
}

LazyMemory::LazyMemory(bool wanted) {
  if (!wanted) return;
  memory_ = base::Fd(::memfd_create("lazy_scan", MFD_CLOEXEC));
  if (!memory_) throw base::sys_error("cannot make a memory file");
  size_ = sizeof(LazyScan) + kRoom * sizeof(page_region) + kMostRanges * sizeof(LazyScan::Range);
  void* memory = MAP_FAILED;
  if (::ftruncate(memory_.get(), static_cast<off_t>(size_)) == 0)
    memory = ::mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_SHARED, memory_.get(), 0);
  if (memory == MAP_FAILED) throw base::sys_error("cannot share memory with CRIU");
  shared_ = new (memory) LazyScan{.run_room = kRoom};
}

void LazyMemory::choose(const std::map<pid_t, pid_t>& processes) {
  if (!shared_) return;
  std::vector<LazyScan::Range> ranges;
  for (const auto& [inside, process] : processes) {
    in_box_[process] = inside;
    for (const AddressRange& range : lazy_ranges(process))
      ranges.push_back({static_cast<uint64_t>(process), range.begin, range.end});
  }
  if (ranges.size() > kMostRanges) ranges.resize(kMostRanges);
  std::ranges::sort(ranges, {}, [](const auto& range) { return std::pair(range.process, range.begin); });
  std::ranges::copy(ranges, shared_->ranges());
  shared_->range_count = ranges.size();
}

LazyMemory::~LazyMemory() {
  if (shared_) ::munmap(shared_, size_);
}

void LazyMemory::use() const {
  if (!shared_) return;
  ::setenv(kLazyScanVariable, std::format("/proc/{}/fd/{}", owner_, memory_.get()).c_str(), 1);
}

void LazyMemory::write(int images) const {
  if (!shared_) return;
  if (shared_->loaded == 0 && shared_->range_count > 0)
    base::debug("CRIU looks at each page itself: it was started without our part");
  std::map<pid_t, std::vector<AddressRange>> found;
  for (const page_region& run : std::span(shared_->runs(), shared_->run_count))
    found[static_cast<pid_t>(run.categories)].push_back({run.start, run.end});
  for (auto& [process, pages] : found)
    add_lazy_pages(images, in_box_.at(process), in_order(std::move(pages)));
}

}  // namespace box
