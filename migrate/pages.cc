#include "migrate/pages.h"

#include <fcntl.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <format>

#include "base/error.h"
#include "base/fd.h"

namespace migrate {
namespace {

using base::error;
using Clock = std::chrono::steady_clock;

constexpr size_t kRunSize = 16;

void put_run(std::vector<std::byte>& out, const PageRun& run) {
  auto put = [&](uint64_t number, int bytes) {
    for (int i = 0; i < bytes; ++i) out.push_back(std::byte(number >> (8 * i)));
  };
  put(run.pid, 4);
  put(run.address, 8);
  put(run.pages, 4);
}

PageRun take_run(std::span<const std::byte> in) {
  auto take = [&](size_t at, size_t bytes) {
    uint64_t number = 0;
    for (size_t i = 0; i < bytes; ++i) number |= std::to_integer<uint64_t>(in[at + i]) << (8 * i);
    return number;
  };
  PageRun run{static_cast<uint32_t>(take(0, 4)), take(4, 8), static_cast<uint32_t>(take(12, 4))};
  // User space ends at 2^56 with five levels of page tables (x86_64/mm.rst).
  if (run.pages == 0 || run.pages > kMostPages || run.address % kPageSize != 0 || run.address >> 56 != 0)
    throw error("the other node named {} pages at {:#x}, which cannot be right", run.pages, run.address);
  return run;
}

/// Reads also what the process itself may not read (mprotect(2)): proc_pid_mem(5).
ssize_t read_protected(pid_t process, uint64_t address, std::span<std::byte> out) {
  const base::Fd memory(::open(std::format("/proc/{}/mem", process).c_str(), O_RDONLY | O_CLOEXEC));
  if (!memory) return -1;
  return ::pread(memory.get(), out.data(), out.size(), static_cast<off_t>(address));
}

/// As much of `out` as is there in one piece from `address` on, in whole pages; 0: nothing, or the process
/// has ended.
size_t read_memory(pid_t process, uint64_t address, std::span<std::byte> out) {
  size_t done = 0;
  while (done < out.size()) {
    iovec to{out.data() + done, out.size() - done};
    iovec from{reinterpret_cast<void*>(address + done), out.size() - done};
    ssize_t got = ::process_vm_readv(process, &to, 1, &from, 1, 0);
    if (got < 0 && errno == EFAULT) got = read_protected(process, address + done, out.subspan(done));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) break;
    done += static_cast<size_t>(got);
  }
  return done & ~(kPageSize - 1);
}

}  // namespace

void send_runs(Wire& wire, Frame type, std::span<const PageRun> runs) {
  std::vector<std::byte> payload;
  for (const auto& run : runs) put_run(payload, run);
  wire.send(type, payload);
}

std::vector<PageRun> parse_runs(const Message& message) {
  const std::span<const std::byte> bytes(message.bytes);
  if (bytes.empty() || bytes.size() % kRunSize != 0)
    throw error("the other node named memory in {} bytes, which cannot be right", bytes.size());
  std::vector<PageRun> runs;
  for (size_t at = 0; at < bytes.size(); at += kRunSize)
    runs.push_back(take_run(bytes.subspan(at, kRunSize)));
  return runs;
}

Pages parse_pages(const Message& message) {
  const std::span<const std::byte> bytes(message.bytes);
  if (bytes.size() < kRunSize) throw error("the other node sent memory in {} bytes", bytes.size());
  Pages pages{take_run(bytes), {}};
  pages.data.resize(pages.run.bytes());
  decompress_block(bytes.subspan(kRunSize), pages.data);
  return pages;
}

void append_runs(std::vector<PageRun>& runs, uint32_t pid, uint64_t begin, uint64_t end) {
  for (; begin < end; begin += kMostPages * kPageSize)
    runs.push_back(
        {pid, begin, static_cast<uint32_t>(std::min<uint64_t>(kMostPages, (end - begin) / kPageSize))});
}

PageSender::PageSender(Wire& wire, std::map<pid_t, pid_t> processes)
    : wire_(wire), processes_(std::move(processes)), memory_(kMostPages * kPageSize) {}

size_t PageSender::read(pid_t process, uint64_t address, size_t bytes) {
  since_ = Clock::now();
  return read_memory(process, address, std::span(memory_).first(bytes));
}

void PageSender::send_bytes(const PageRun& run) {
  frame_.clear();
  put_run(frame_, run);
  const auto start = Clock::now();
  packer_.pack(std::span(memory_).first(run.bytes()), wire_.level().now(), frame_);
  const auto packed = Clock::now();
  const auto waited = wire_.waited();
  wire_.send(Frame::kPages, frame_);
  wire_.level().sent({.in = run.bytes(),
                      .out = frame_.size(),
                      .packing = packed - start,
                      .waiting = wire_.waited() - waited,
                      .all = Clock::now() - since_});
}

void PageSender::send(const PageRun& run) {
  const auto process = processes_.find(static_cast<pid_t>(run.pid));
  if (process == processes_.end())
    throw error("the other node asked for memory of process {}, which the box does not have", run.pid);
  if (const size_t got = read(process->second, run.address, run.bytes()); got != run.bytes())
    throw base::sys_error("cannot read the memory of process {} at {:#x}", process->second,
                          run.address + got);
  send_bytes(run);
}

uint64_t PageSender::push(const PageRun& run) {
  const auto process = processes_.find(static_cast<pid_t>(run.pid));
  if (process == processes_.end()) return 0;  // it has ended
  uint64_t sent = 0;
  for (uint64_t done = 0; done < run.bytes();) {
    const uint64_t at = run.address + done;
    const size_t got = read(process->second, at, run.bytes() - done);
    if (got > 0) send_bytes({run.pid, at, static_cast<uint32_t>(got / kPageSize)});
    sent += got;
    done += std::max<uint64_t>(got, kPageSize);
  }
  return sent;
}

Message serve_pages(Wire& wire, PageSender& sender, std::chrono::milliseconds timeout,
                    const std::function<void(uint64_t bytes)>& served) {
  for (;;) {
    Message message = wire.recv(timeout, "what it wants of the box's memory");
    if (message.type != Frame::kWant) return message;
    for (const PageRun& run : parse_runs(message)) {
      sender.send(run);
      if (served) served(run.bytes());
    }
  }
}

}  // namespace migrate
