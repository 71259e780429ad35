#pragma once
#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "box/memory_map.h"

namespace migrate {

using box::AddressRange;

/// Memory of one process that a disk may still write. A direct read (O_DIRECT, open(2)) takes hold of its
/// pages when it begins, and writes them when the disk has answered, past the page tables: a page that was
/// told and protected meanwhile is written once more, and the kernel does not tell. So what was told of a
/// process that reads so is told again, until all reads that were on their way then have ended.
class DiskReads {
 public:
  using Clock = std::chrono::steady_clock;
  /// By then a disk has answered: slow ones take this long with a full queue.
  static constexpr std::chrono::milliseconds kSettle{500};

  explicit DiskReads(pid_t process) : process_(process) {}

  /// Before each look at what was written. `asynchronous`: it has a context of io_setup(2).
  void look(bool asynchronous);
  /// It may have begun direct reads between the last two looks (or before, at the first one).
  [[nodiscard]] bool reading() const { return reading_; }
  /// What was told before and has to be told again, by address, once for each time that it was told.
  std::vector<AddressRange> again();
  /// This was told, after the last look.
  void told(std::vector<AddressRange> ranges);

 private:
  struct Told {
    Clock::time_point when;
    bool at_risk;
    std::vector<AddressRange> ranges;
  };
  pid_t process_;
  std::optional<std::string> bytes_;  ///< read from disks, at the last look
  bool reading_ = false;
  std::vector<Told> told_;
};

}  // namespace migrate
