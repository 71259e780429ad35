#pragma once
#include <cstdint>
#include <string_view>
#include <vector>

namespace box {

struct AddressRange {
  uint64_t begin, end;
  [[nodiscard]] uint64_t size() const { return end - begin; }
};

/// The private memory without a file behind it, but for the stack of the first thread, of a process whose
/// /proc/PID/maps this is (proc_pid_maps(5)).
std::vector<AddressRange> anonymous_memory(std::string_view maps);

/// Puts a range behind those that begin before it; together with the last one, where they meet.
void append(std::vector<AddressRange>& ranges, uint64_t begin, uint64_t end);

/// By address, and none meets another.
std::vector<AddressRange> in_order(std::vector<AddressRange> ranges);

/// What of `range` is not in `others`, which are in order.
void subtract(AddressRange range, const std::vector<AddressRange>& others, std::vector<AddressRange>& out);

}  // namespace box
