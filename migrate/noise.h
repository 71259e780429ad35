#pragma once
#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <vector>

#include "migrate/dirty.h"
#include "migrate/plan.h"

namespace migrate {

/// Memory of this process that cannot be packed, sent as if it were a box's, to measure what the wire carries
/// of it at worst. The destination throws it away.
class Noise {
 public:
  /// The process of whom it is, which no box has.
  static constexpr uint32_t kPid = 0;

  Noise();
  /// For a PageSender.
  [[nodiscard]] std::map<pid_t, pid_t> processes() const;
  /// Has `send` send ever more of it, for about half a second in all, but no more than `most` bytes at once.
  /// What the last ones took.
  [[nodiscard]] Sent measure(uint64_t most,
                             const std::function<Sent(DirtyMemory::Written noise)>& send) const;

 private:
  std::vector<std::byte> bytes_;
  DirtyMemory::Run run_;
};

}  // namespace migrate
