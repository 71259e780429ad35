#include "migrate/asked.h"

#include <algorithm>

#include "base/error.h"

namespace migrate {

void Asked::want(uint32_t pid, uint64_t begin, uint64_t end, bool urgent) {
  auto& runs = on_their_way_[pid];
  while (begin < end) {
    auto next = runs.upper_bound(begin);
    if (next != runs.begin() && std::prev(next)->second > begin) {
      begin = std::prev(next)->second;
      continue;
    }
    uint64_t until = std::min(end, begin + kMostPages * kPageSize);
    if (next != runs.end()) until = std::min(until, next->first);
    runs[begin] = until;
    bytes_ += until - begin;
    const PageRun run{pid, begin, static_cast<uint32_t>((until - begin) / kPageSize)};
    to_send_.insert(urgent ? to_send_.begin() : to_send_.end(), run);
    begin = until;
  }
}

void Asked::require(const PageRun& run) const {
  if (const auto of_pid = on_their_way_.find(run.pid); of_pid != on_their_way_.end()) {
    const auto found = of_pid->second.find(run.address);
    if (found != of_pid->second.end() && found->second == run.address + run.bytes()) return;
  }
  throw base::error("the other node sent memory that was not asked for: {} pages at {:#x}", run.pages,
                    run.address);
}

void Asked::done(const PageRun& run) {
  if (on_their_way_[run.pid].erase(run.address) > 0) bytes_ -= run.bytes();
}

}  // namespace migrate
