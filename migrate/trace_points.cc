#include "migrate/trace_points.h"

#include <fcntl.h>
#include <linux/perf_event.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <format>
#include <optional>
#include <span>
#include <sstream>
#include <string>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "base/fd.h"
#include "base/kernel.h"
#include "migrate/tree_blocks.h"

namespace migrate {
namespace {

using base::Fd;

// For all processors together; each one's part, which has to be a power of two.
constexpr size_t kAllBuffers = 32 << 20, kLeastBuffer = 64 << 10, kMostBuffer = 1 << 20;
// A record of any of the trace points is shorter.
constexpr size_t kLongestRecord = 512;

/// One of the kernel's trace points, as its directory in tracefs describes it
/// (Documentation/trace/events.rst).
struct TracePoint {
  uint16_t id = 0;
  std::string format;

  struct Field {
    size_t offset = 0, size = 0;
    [[nodiscard]] uint64_t of(std::span<const char> record) const {
      uint64_t value = 0;
      if (offset + size <= record.size()) std::memcpy(&value, record.data() + offset, size);
      return value;
    }
  };

  TracePoint(int tracefs, const std::string& name) {
    const auto read = [&](const char* file) {
      const Fd fd = base::open_at(tracefs, "events/" + name + "/" + file, O_RDONLY);
      std::string text(64 << 10, '\0');
      text.resize(base::read_full(fd.get(), std::as_writable_bytes(std::span(text))));
      return text;
    };
    format = read("format");
    id = static_cast<uint16_t>(std::stoul(read("id")));
  }

  /// "	field:unsigned long index;	offset:48;	size:8;	signed:0;"
  [[nodiscard]] Field field(const std::string& name) const {
    const size_t at = format.find(" " + name + ";\toffset:");
    if (at == std::string::npos) throw base::error("a trace point has no field '{}'", name);
    const size_t offset = format.find("offset:", at) + 7, size = format.find("size:", at) + 5;
    const Field found = {.offset = std::stoul(format.substr(offset)),
                         .size = std::stoul(format.substr(size))};
    if (found.size > sizeof(uint64_t)) throw base::error("field '{}' of a trace point is no number", name);
    return found;
  }
};

/// tracefs, mounted where only we see it.
Fd open_tracefs() {
  const Fd system(static_cast<int>(::syscall(SYS_fsopen, "tracefs", FSOPEN_CLOEXEC)));
  if (!system || ::syscall(SYS_fsconfig, system.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) != 0)
    throw base::sys_error("no tracefs");
  Fd root(static_cast<int>(::syscall(SYS_fsmount, system.get(), FSMOUNT_CLOEXEC, MOUNT_ATTR_RDONLY)));
  if (!root) throw base::sys_error("cannot mount a tracefs");
  return root;
}

/// Pages of the largest piece of a file's cache that is marked as one (a folio). The event has the first of
/// them, whose number is a multiple of their count. ext4 has single pages before Linux 6.16, then up to a
/// huge page of them; of kernels with changes of their own nobody knows.
size_t largest_folio() {
  utsname name{};
  if (::uname(&name) == 0 && std::string_view(name.version).contains("Debian") &&
      base::kernel_version() < std::pair(6, 16))
    return 1;
  return std::stoul(base::read_file("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size")) / kBlockSize;
}

std::string online_processors() { return base::read_file("/sys/devices/system/cpu/online"); }

/// "0-3,6"
std::vector<int> numbers(const std::string& list) {
  std::vector<int> out;
  std::istringstream in(list);
  for (std::string part; std::getline(in, part, ',');) {
    const size_t dash = part.find('-');
    const int first = std::stoi(part), last = dash == part.npos ? first : std::stoi(part.substr(dash + 1));
    for (int i = first; i <= last; ++i) out.push_back(i);
  }
  return out;
}

Fd open_event(const TracePoint& point, const std::string& filter, int processor, size_t buffer) {
  perf_event_attr attributes = {};
  attributes.type = PERF_TYPE_TRACEPOINT;
  attributes.size = sizeof attributes;
  attributes.config = point.id;
  attributes.sample_period = 1;
  attributes.sample_type = PERF_SAMPLE_RAW;
  attributes.disabled = 1;
  attributes.watermark = 1;
  attributes.wakeup_watermark = static_cast<uint32_t>(buffer / 4);
  Fd fd(
      static_cast<int>(::syscall(SYS_perf_event_open, &attributes, -1, processor, -1, PERF_FLAG_FD_CLOEXEC)));
  if (!fd) throw base::sys_error("cannot open a trace point");
  if (::ioctl(fd.get(), PERF_EVENT_IOC_SET_FILTER, filter.c_str()) != 0)
    throw base::sys_error("cannot filter a trace point");
  return fd;
}

}  // namespace

/// What is asked of the kernel.
struct TracePoints::Points {
  explicit Points(int tracefs)
      : page(tracefs, "writeback/writeback_dirty_folio"),
        direct(tracefs, "iomap/iomap_dio_complete"),
        fallocate{
            TracePoint(tracefs, "ext4/ext4_fallocate_enter"), TracePoint(tracefs, "ext4/ext4_zero_range"),
            TracePoint(tracefs, "ext4/ext4_collapse_range"), TracePoint(tracefs, "ext4/ext4_insert_range")} {}
  Points(const Points&) = delete;
  Points& operator=(const Points&) = delete;

  TracePoint page;    ///< a page of the cache has new content
  TracePoint direct;  ///< a direct read or write is over, and stands behind what it did
  std::array<TracePoint, 4>
      fallocate;  ///< is called: the two that make zeros, the two that move what is behind
  TracePoint::Field page_ino = page.field("ino"), page_index = page.field("index");
  TracePoint::Field direct_ino = direct.field("ino"), direct_at = direct.field("pos"),
                    direct_bytes = direct.field("ret");
  size_t folio = largest_folio();

  [[nodiscard]] std::vector<const TracePoint*> all() const {
    std::vector<const TracePoint*> points = {&page, &direct};
    for (const TracePoint& point : fallocate) points.push_back(&point);
    return points;
  }

  [[nodiscard]] std::optional<WriteEvent> event(std::span<const char> record) const {
    using What = WriteEvent::What;
    uint16_t id = 0;
    if (record.size() >= sizeof id) std::memcpy(&id, record.data(), sizeof id);
    if (id == page.id) {
      const uint64_t index = page_index.of(record);
      const uint64_t pages =
          index == 0 ? folio : std::min<uint64_t>(folio, uint64_t{1} << std::countr_zero(index));
      return WriteEvent{What::kWritten, page_ino.of(record), {index, index + pages}};
    }
    if (id == direct.id) {
      const auto bytes = static_cast<int64_t>(direct_bytes.of(record));
      const uint64_t end = direct_at.of(record);
      if (bytes < 0)
        return WriteEvent{What::kUnknown, direct_ino.of(record)};  // nobody knows how far it came
      return WriteEvent{What::kWritten,
                        direct_ino.of(record),
                        {(end - static_cast<uint64_t>(bytes)) / kBlockSize, blocks_of(end)}};
    }
    for (const TracePoint& point : fallocate) {
      if (id != point.id) continue;
      const uint64_t begin = point.field("offset").of(record), bytes = point.field("len").of(record);
      return WriteEvent{&point < &fallocate[2] ? What::kPrepared : What::kMoved,
                        point.field("ino").of(record),
                        {begin / kBlockSize, blocks_of(begin + bytes)}};
    }
    return std::nullopt;
  }
};

TracePoints::TracePoints() : points_(std::make_unique<Points>(open_tracefs().get())) {}
TracePoints::~TracePoints() = default;

/// What one processor has to tell: the trace points' events in one buffer (perf_event_open(2), "MMAP
/// layout").
class WriteEvents::Buffer {
 public:
  Buffer(int processor, const TracePoints::Points& points, const std::string& filter, size_t size)
      : size_(size) {
    for (const TracePoint* point : points.all())
      events_.push_back(open_event(*point, filter, processor, size));
    void* at = ::mmap(nullptr, page_ + size_, PROT_READ | PROT_WRITE, MAP_SHARED, events_[0].get(), 0);
    if (at == MAP_FAILED) throw base::sys_error("cannot map the buffer of a trace point");
    head_ = static_cast<perf_event_mmap_page*>(at);
    for (const Fd& event : std::span(events_).subspan(1))
      if (::ioctl(event.get(), PERF_EVENT_IOC_SET_OUTPUT, events_[0].get()) != 0)
        throw base::sys_error("cannot set the buffer of a trace point");
    for (const Fd& event : events_)
      if (::ioctl(event.get(), PERF_EVENT_IOC_ENABLE, 0) != 0)
        throw base::sys_error("cannot enable a trace point");
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  Buffer(Buffer&& other) noexcept
      : size_(other.size_),
        page_(other.page_),
        events_(std::move(other.events_)),
        head_(std::exchange(other.head_, nullptr)) {}
  Buffer& operator=(Buffer&&) = delete;
  ~Buffer() {
    if (head_) ::munmap(head_, page_ + size_);
  }

  [[nodiscard]] int fd() const { return events_[0].get(); }

  /// Calls `see` with what each trace point said. False: something was lost. The kernel says so with the next
  /// event that it has room for; but something can only have been lost if the buffer was full, which it is,
  /// for the kernel, until we have told how far we are.
  template <class See>
  bool drain(See see) {
    const uint64_t head = __atomic_load_n(&head_->data_head, __ATOMIC_ACQUIRE), begin = head_->data_tail;
    uint64_t tail = begin;
    bool whole = true;
    while (tail < head) {
      perf_event_header header;
      copy(tail, std::as_writable_bytes(std::span(&header, 1)));
      if (header.size < sizeof header || header.size > kLongestRecord) {
        whole = false;
        break;
      }
      if (header.type == PERF_RECORD_SAMPLE) {
        alignas(uint64_t) std::array<char, kLongestRecord> record;
        copy(tail, std::as_writable_bytes(std::span(record).first(header.size)));
        uint32_t raw = 0;
        std::memcpy(&raw, record.data() + sizeof header, sizeof raw);
        const auto body = std::span(record).first(header.size).subspan(sizeof header + sizeof raw);
        see(std::span<const char>(body).first(std::min<size_t>(raw, body.size())));
      } else {
        whole = false;  // PERF_RECORD_LOST, PERF_RECORD_THROTTLE
      }
      tail += header.size;
    }
    __atomic_store_n(&head_->data_tail, head, __ATOMIC_RELEASE);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    const uint64_t now = __atomic_load_n(&head_->data_head, __ATOMIC_ACQUIRE);
    return whole && now - begin + 2 * kLongestRecord <= size_;
  }

 private:
  void copy(uint64_t from, std::span<std::byte> to) const {
    const auto* data = reinterpret_cast<const std::byte*>(head_) + page_;
    for (std::byte& byte : to) byte = data[from++ & (size_ - 1)];
  }

  size_t size_, page_ = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
  std::vector<Fd> events_;
  perf_event_mmap_page* head_ = nullptr;
};

struct WriteEvents::Buffers {
  const TracePoints::Points& points;
  std::string online = online_processors();  ///< one that starts later has no buffer here
  std::vector<Buffer> each = {};
  std::vector<std::optional<WriteEvent>> last = {};  ///< that each has told
};

WriteEvents::WriteEvents(const TracePoints& points, const std::set<ino_t>& files, size_t buffer)
    : buffers_(new Buffers{*points.points_}) {
  const auto processors = numbers(buffers_->online);
  if (buffer == 0)
    buffer = std::bit_floor(std::clamp(kAllBuffers / processors.size(), kLeastBuffer, kMostBuffer));
  std::string filter;  // with kMostFiles it fits into the page that the kernel takes
  for (const ino_t file : files) filter += std::format("{}ino=={}", filter.empty() ? "" : "||", file);
  for (const int processor : processors)
    buffers_->each.emplace_back(processor, buffers_->points, filter, buffer);
  buffers_->last.resize(processors.size());
  if (buffers_->online != online_processors()) throw base::error("a processor came or went");
}

WriteEvents::~WriteEvents() = default;

std::vector<int> WriteEvents::descriptors() const {
  std::vector<int> out;
  for (const Buffer& buffer : buffers_->each) out.push_back(buffer.fd());
  return out;
}

// The kernel tells of a page just before it marks it for the next writeback, with interrupts off. Whoever
// asks at that moment, and then has the file brought to disk, may find that page left out. So what a
// processor told last is told again, every time.
bool WriteEvents::drain(const std::function<void(const WriteEvent&)>& see) {
  bool whole = true;
  for (size_t i = 0; i < buffers_->each.size(); ++i) {
    auto& last = buffers_->last[i];
    if (last) see(*last);
    whole &= buffers_->each[i].drain([&](std::span<const char> record) {
      last = buffers_->points.event(record);
      if (last) see(*last);
    });
  }
  return whole && buffers_->online == online_processors();
}

}  // namespace migrate
