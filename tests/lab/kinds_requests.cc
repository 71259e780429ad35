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

void submit(aio_context_t context, iocb& request) {
  iocb* list[] = {&request};
  same(must(syscall(SYS_io_submit, context, 1, list), "io_submit"), 1L, "submitted");
}

/// Of which some are under way at any time: whenever one ends, a thread begins it anew.
class Requests {
 public:
  /// None is under way afterwards: each is over.
  void rest() {
    resting_ = true;
    worker_.join();
    if (!failed_.empty()) throw Failed{failed_};
    resting_ = false;
  }
  void go_on() {
    worker_ = std::thread([this] { work(); });
  }

 protected:
  explicit Requests(int count) : count_(count) { must(syscall(SYS_io_setup, count, &context_), "io_setup"); }
  ~Requests() = default;
  virtual void begin(int number) = 0;
  virtual void ended(int number, __s64 result) = 0;

  aio_context_t context_ = 0;

 private:
  void work() try {
    for (int number = 0; number < count_; ++number) begin(number);
    for (int open = count_; open > 0;) {
      io_event event{};
      timespec patience{10, 0};
      const long count = syscall(SYS_io_getevents, context_, 1, 1, &event, &patience);
      if (count < 0 && errno == EINTR) continue;  // a freeze does that as well, signal(7)
      must(count, "io_getevents");
      require(count > 0, std::to_string(open) + " requests do not end");
      const int number = static_cast<int>(event.data);
      ended(number, event.res);
      if (resting_)
        --open;
      else
        begin(number);
    }
  } catch (const Failed& failed) {
    failed_ = failed.why;
  }

  const int count_;
  std::atomic<bool> resting_ = false;
  std::string failed_;
  std::thread worker_;
};

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
    submit(context, request);
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
    submit(context, request);
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
class ClockedRequests final : public Requests {
 public:
  ClockedRequests() : Requests(kCount) {
    for (int& timer : timers_) timer = must(timerfd_create(CLOCK_MONOTONIC, 0), "timerfd_create");
    go_on();
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

  void begin(int k) override {
    const itimerspec next = {{}, {0, ns_until_next(k)}};
    must(timerfd_settime(timers_[k], 0, &next, nullptr), "timerfd_settime");
    iocb request{};
    request.aio_lio_opcode = IOCB_CMD_POLL;
    request.aio_fildes = static_cast<unsigned>(timers_[k]);
    request.aio_buf = POLLIN;
    request.aio_data = static_cast<__u64>(k);
    submit(context_, request);
  }

  void ended(int k, __s64) override {
    __u64 times = 0;
    must(read(timers_[k], &times, sizeof times), "the timer");
  }

  int timers_[kCount];
};

Check clocked_requests() {
  static ClockedRequests requests;
  return [] {
    requests.rest();
    requests.go_on();
  };
}

/// Direct writes and reads, of which some are always under way (InnoDB works like that).
class DirectRequests final : public Requests {
 public:
  DirectRequests() : Requests(kSlots) {
    file_ = must(open("direct", O_RDWR | O_CREAT | O_DIRECT, 0644), "direct");
    const size_t size = size_t{kSlots} * kSize;
    buffers_ = static_cast<char*>(must_map(
        static_cast<char*>(mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)),
        "mmap"));
    std::memset(buffers_, 0, size);
    must(pwrite(file_, buffers_, size, 0), "pwrite");
    go_on();
  }

  /// While they rest.
  void look() const {
    std::string data(kSize, 0);
    const int file = must(open("direct", O_RDONLY), "direct");
    for (int slot = 0; slot < kSlots; ++slot) {
      must(pread(file, data.data(), kSize, at(slot)), "pread");
      require(is_of(data.data(), rounds_[slot]), "what was written is not in the file");
    }
    close(file);
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
  void begin(int slot) override {
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
    submit(context_, request);
  }

  void ended(int slot, __s64 result) override {
    same(result, __s64{kSize}, "what came of a request");
    if (reads_[slot])
      require(is_of(buffer(slot), rounds_[slot]), "what was read is not what was written");
    else
      ++rounds_[slot];
    reads_[slot] = !reads_[slot];
  }

  int file_ = -1;
  char* buffers_ = nullptr;
  unsigned rounds_[kSlots] = {};
  bool reads_[kSlots] = {};
};

Check direct_requests() {
  static DirectRequests requests;
  return [] {
    requests.rest();
    requests.look();
    requests.go_on();
  };
}

}  // namespace

const Kind kRequestKinds[] = {{"aio", aio},
                              {"aio-poll", aio_poll},
                              {"aio-clocked", clocked_requests},
                              {"aio-under-way", direct_requests},
                              {}};
