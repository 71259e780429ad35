// Asynchronous requests: io_setup(2) and io_submit(2).
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <atomic>
#include <thread>

#include "kinds.h"

namespace {

Check aio() {
  aio_context_t context = 0;
  must(syscall(SYS_io_setup, 16, &context), "io_setup");
  const int fd = must(open("file", O_RDWR | O_CREAT, 0644), "file");
  return [=] {
    char data[] = "asynchronous";
    iocb request{};
    request.aio_lio_opcode = IOCB_CMD_PWRITE;
    request.aio_fildes = static_cast<unsigned>(fd);
    request.aio_buf = reinterpret_cast<__u64>(data);
    request.aio_nbytes = sizeof data - 1;
    request.aio_data = 4711;
    iocb* list[] = {&request};
    same(must(syscall(SYS_io_submit, context, 1, list), "io_submit"), 1L, "submitted");
    io_event event{};
    timespec patience{5, 0};
    same(must(syscall(SYS_io_getevents, context, 1, 1, &event, &patience), "io_getevents"), 1L, "done");
    same(event.data, __u64{4711}, "its data");
    same(read_file("file"), "asynchronous", "the file");
  };
}

/// A poll as an asynchronous request, which waits.
Check aio_poll() {
  aio_context_t context = 0;
  must(syscall(SYS_io_setup, 16, &context), "io_setup");
  int ends[2];
  must(pipe(ends), "pipe");
  const auto begin = [=] {
    iocb request{};
    request.aio_lio_opcode = IOCB_CMD_POLL;
    request.aio_fildes = static_cast<unsigned>(ends[0]);
    request.aio_buf = POLLIN;
    iocb* list[] = {&request};
    same(must(syscall(SYS_io_submit, context, 1, list), "io_submit"), 1L, "submitted");
  };
  begin();
  return [=] {
    write_all(ends[1], "x");
    io_event event{};
    timespec patience{2, 0};
    const long ended = must(syscall(SYS_io_getevents, context, 1, 1, &event, &patience), "io_getevents");
    read_some(ends[0], 1);
    if (ended == 0) throw Failed{"the poll does not end"};
    begin();
  };
}

/// Requests that end by a clock, one each 5 ms. At any time the last of those under way has 0.3 s to go.
class ClockedRequests {
 public:
  ClockedRequests() {
    must(syscall(SYS_io_setup, kCount, &context_), "io_setup");
    for (int& timer : timers_) timer = must(timerfd_create(CLOCK_MONOTONIC, 0), "timerfd_create");
    worker_ = std::thread([this] { work(); });
  }

  /// Each of them is over afterwards; and then they go on.
  void rest() {
    resting_ = true;
    worker_.join();
    if (!failed_.empty()) throw Failed{failed_};
    resting_ = false;
    worker_ = std::thread([this] { work(); });
  }

 private:
  static constexpr int kCount = 60;
  static constexpr long kGap = 5'000'000;  // ns

  /// To the next moment that is this one's, so that late ones leave no gap between the others.
  static long ns_until_next(int k) {
    timespec now{};
    clock_gettime(CLOCK_MONOTONIC, &now);
    const long phase = ((now.tv_sec % 3 * 1'000'000'000 + now.tv_nsec) - k * kGap) % (kCount * kGap);
    return kCount * kGap - (phase + kCount * kGap) % (kCount * kGap);
  }

  void begin(int k) {
    const itimerspec next = {{}, {0, ns_until_next(k)}};
    must(timerfd_settime(timers_[k], 0, &next, nullptr), "timerfd_settime");
    iocb request{};
    request.aio_lio_opcode = IOCB_CMD_POLL;
    request.aio_fildes = static_cast<unsigned>(timers_[k]);
    request.aio_buf = POLLIN;
    request.aio_data = static_cast<__u64>(k);
    iocb* list[] = {&request};
    same(must(syscall(SYS_io_submit, context_, 1, list), "io_submit"), 1L, "submitted");
  }

  void work() try {
    for (int k = 0; k < kCount; ++k) begin(k);
    for (int open = kCount; open > 0;) {
      io_event events[kCount];
      timespec patience{5, 0};
      // Until all that are left have ended: those that were lost would not be missed for the others.
      const long least = resting_ ? open : 1;
      const long count = syscall(SYS_io_getevents, context_, least, kCount, events, &patience);
      if (count < 0 && errno == EINTR) continue;
      must(count, "io_getevents");
      require(count >= least, std::to_string(open) + " requests were under way, and not all end");
      for (long e = 0; e < count; ++e) {
        const int k = static_cast<int>(events[e].data);
        __u64 times = 0;
        must(read(timers_[k], &times, sizeof times), "the timer");
        if (resting_)
          --open;
        else
          begin(k);
      }
    }
  } catch (const Failed& failed) {
    failed_ = failed.why;
  }

  aio_context_t context_ = 0;
  int timers_[kCount];
  std::atomic<bool> resting_ = false;
  std::string failed_;
  std::thread worker_;
};

Check clocked_requests() {
  static ClockedRequests requests;
  return [] { requests.rest(); };
}

/// Direct writes and reads, of which some are always under way (InnoDB works like that).
class DirectRequests {
 public:
  DirectRequests() {
    must(syscall(SYS_io_setup, kSlots, &context_), "io_setup");
    file_ = must(open("direct", O_RDWR | O_CREAT | O_DIRECT, 0644), "direct");
    const size_t size = size_t{kSlots} * kSize;
    buffers_ = static_cast<char*>(must_map(
        static_cast<char*>(mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)),
        "mmap"));
    std::memset(buffers_, 0, size);
    must(pwrite(file_, buffers_, size, 0), "pwrite");
    worker_ = std::thread([this] { work(); });
  }

  /// None is under way afterwards, and each is over.
  void rest() {
    resting_ = true;
    worker_.join();
    if (!failed_.empty()) throw Failed{failed_};
    std::string data(kSize, 0);
    const int file = must(open("direct", O_RDONLY), "direct");
    for (int slot = 0; slot < kSlots; ++slot) {
      must(pread(file, data.data(), kSize, at(slot)), "pread");
      require(is_of(data.data(), rounds_[slot]), "what was written is not in the file");
    }
    close(file);
    resting_ = false;
    worker_ = std::thread([this] { work(); });
  }

 private:
  static constexpr int kSlots = 32, kSize = 16384;

  static off_t at(int slot) { return off_t{slot} * kSize; }
  char* buffer(int slot) { return buffers_ + at(slot); }
  static bool is_of(const char* data, unsigned round) {
    for (int k = 0; k < kSize; k += 512) {
      unsigned is = 0;
      std::memcpy(&is, data + k, sizeof is);
      if (is != round) return false;
    }
    return true;
  }

  /// Writes the next round's number, or reads the last one's.
  void begin(int slot) {
    const bool reads = reads_[slot];
    for (int k = 0; k < kSize; k += 512) {
      const unsigned number = reads ? ~0U : rounds_[slot] + 1;
      std::memcpy(buffer(slot) + k, &number, sizeof number);
    }
    iocb request{};
    request.aio_lio_opcode = static_cast<__u16>(reads ? IOCB_CMD_PREAD : IOCB_CMD_PWRITE);
    request.aio_fildes = static_cast<unsigned>(file_);
    request.aio_buf = reinterpret_cast<__u64>(buffer(slot));
    request.aio_nbytes = kSize;
    request.aio_offset = at(slot);
    request.aio_data = static_cast<__u64>(slot);
    iocb* list[] = {&request};
    same(must(syscall(SYS_io_submit, context_, 1, list), "io_submit"), 1L, "submitted");
  }

  void work() try {
    for (int slot = 0; slot < kSlots; ++slot) begin(slot);
    for (int open = kSlots; open > 0;) {
      io_event events[kSlots];
      timespec patience{10, 0};
      const long count = syscall(SYS_io_getevents, context_, 1, kSlots, events, &patience);
      if (count < 0 && errno == EINTR) continue;  // a freeze does that as well, signal(7)
      must(count, "io_getevents");
      require(count > 0, std::to_string(open) + " requests do not end");
      for (long k = 0; k < count; ++k) {
        const int slot = static_cast<int>(events[k].data);
        same(events[k].res, __s64{kSize}, "what came of a request");
        if (reads_[slot])
          require(is_of(buffer(slot), rounds_[slot]), "what was read is not what was written");
        else
          ++rounds_[slot];
        reads_[slot] = !reads_[slot];
        if (resting_)
          --open;
        else
          begin(slot);
      }
    }
  } catch (const Failed& failed) {
    failed_ = failed.why;
  }

  aio_context_t context_ = 0;
  int file_ = -1;
  char* buffers_ = nullptr;
  unsigned rounds_[kSlots] = {};
  bool reads_[kSlots] = {};
  std::atomic<bool> resting_ = false;
  std::string failed_;
  std::thread worker_;
};

Check direct_requests() {
  static DirectRequests requests;
  return [] { requests.rest(); };
}

}  // namespace

const Kind kRequestKinds[] = {{"aio", aio},
                              {"aio-poll", aio_poll},
                              {"aio-clocked", clocked_requests},
                              {"aio-under-way", direct_requests},
                              {}};
