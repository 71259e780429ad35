#include "box/memory_map.h"

#include <algorithm>
#include <charconv>

namespace box {
namespace {

struct Line {
  AddressRange range{};
  bool counts = false;  ///< private and anonymous
};

/// A line of /proc/PID/maps: `7f…-7f… rw-p 00000000 00:00 0   [heap]`.
Line parse_line(std::string_view line) {
  Line found;
  const char *const begin = line.data(), *const end = begin + line.size();
  const char* at = std::from_chars(begin, end, found.range.begin, 16).ptr;
  if (at == end || *at != '-') return {};
  at = std::from_chars(at + 1, end, found.range.end, 16).ptr;
  std::string_view rest(at, end);
  if (rest.size() < 6 || rest[4] != 'p') return found;
  // Permissions, offset, device, inode, name.
  for (int field = 0; field < 3; ++field) {
    rest.remove_prefix(std::min(rest.size(), rest.find_first_not_of(' ')));
    rest.remove_prefix(std::min(rest.size(), rest.find(' ')));
  }
  rest.remove_prefix(std::min(rest.size(), rest.find_first_not_of(' ')));
  if (!rest.starts_with("0 ") && rest != "0") return found;  // a file
  rest.remove_prefix(1);
  rest.remove_prefix(std::min(rest.size(), rest.find_first_not_of(' ')));
  found.counts = rest.empty() || rest == "[heap]" || rest.starts_with("[anon:");
  return found;
}

}  // namespace

std::vector<AddressRange> anonymous_memory(std::string_view maps) {
  std::vector<AddressRange> found;
  while (!maps.empty()) {
    const size_t length = std::min(maps.find('\n'), maps.size());
    if (const Line line = parse_line(maps.substr(0, length)); line.counts) found.push_back(line.range);
    maps.remove_prefix(std::min(length + 1, maps.size()));
  }
  return found;
}

void append(std::vector<AddressRange>& ranges, uint64_t begin, uint64_t end) {
  if (!ranges.empty() && ranges.back().end >= begin)
    ranges.back().end = std::max(ranges.back().end, end);
  else
    ranges.push_back({begin, end});
}

std::vector<AddressRange> in_order(std::vector<AddressRange> ranges) {
  std::ranges::sort(ranges, {}, &AddressRange::begin);
  std::vector<AddressRange> found;
  for (const AddressRange& range : ranges) append(found, range.begin, range.end);
  return found;
}

void subtract(AddressRange range, const std::vector<AddressRange>& others, std::vector<AddressRange>& out) {
  auto other = std::ranges::partition_point(others, [&](const auto& o) { return o.end <= range.begin; });
  for (; other != others.end() && other->begin < range.end; ++other) {
    if (range.begin < other->begin) out.push_back({range.begin, other->begin});
    range.begin = std::min(range.end, other->end);
  }
  if (range.begin < range.end) out.push_back(range);
}

}  // namespace box
