#pragma once
#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <vector>

#include "migrate/stream.h"
#include "migrate/wire.h"

namespace migrate {

/// Memory on its way. Before the freeze the source pushes it, out of running processes; after it the
/// destination asks for what it lacks, first for what the box waits for, and the source reads that from the
/// frozen processes. The source keeps no account of what it has answered: so any connection can go on where
/// another one broke.

inline constexpr uint64_t kPageSize = 4096, kHugePageSize = 2 << 20;
inline constexpr uint32_t kMostPages = 64;  ///< of one run: 256 KiB

/// So many pages of one process. docs/formats/move-wire.md has it byte by byte.
struct PageRun {
  uint32_t pid = 0;      ///< inside the box
  uint64_t address = 0;  ///< of a page; of one that is asked for: when the box was frozen
  uint32_t pages = 0;    ///< 1 … kMostPages

  [[nodiscard]] uint64_t bytes() const { return pages * kPageSize; }
};

/// Names runs, in a kWant or kStale frame: 1 … 65,536 of them.
void send_runs(Wire& wire, Frame type, std::span<const PageRun> runs);
/// The runs of such a frame. Throws when they are out of bounds.
std::vector<PageRun> parse_runs(const Message& message);
/// Pages [begin, end) of a process as runs.
void append_runs(std::vector<PageRun>& runs, uint32_t pid, uint64_t begin, uint64_t end);

/// A run with its content, from a kPages frame.
struct Pages {
  PageRun run;
  std::vector<std::byte> data;
};
Pages parse_pages(const Message& message);

/// Reads memory of a box's processes (pid in the box → pid on this node) and sends it as kPages frames.
class PageSender {
 public:
  PageSender(Wire& wire, std::map<pid_t, pid_t> processes);
  /// All of the run, or an Error: what is asked for is what the images said is there.
  void send(const PageRun& run);
  /// What there is of it: pages that a running process has given up are left out, and so is a process that
  /// has ended. Returns the bytes sent.
  uint64_t push(const PageRun& run);

 private:
  size_t read(pid_t process, uint64_t address, size_t bytes);
  void send_bytes(const PageRun& run);

  Wire& wire_;
  std::map<pid_t, pid_t> processes_;
  std::vector<std::byte> memory_, frame_;
  BlockPacker packer_;
  std::chrono::steady_clock::time_point since_;  ///< when what is in memory_ began to be read
};

/// Answers kWant frames until a frame of another type comes, and returns that. `served` hears of every run.
/// `timeout` is the longest silence.
Message serve_pages(Wire& wire, PageSender& sender, std::chrono::milliseconds timeout,
                    const std::function<void(uint64_t bytes)>& served);

}  // namespace migrate
