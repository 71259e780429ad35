#include "image/sgdisk.h"

#include <algorithm>
#include <charconv>
#include <optional>

#include "base/error.h"

namespace image {
namespace {

bool plain(std::string_view text) {
  return std::ranges::all_of(text, [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-';
  });
}

/// Takes what stands behind `key` in the text, up to a blank or the line's end, and the text up to there.
std::optional<std::string> take(std::string_view& text, std::string_view key) {
  size_t at = text.find(key);
  if (at == std::string_view::npos) return std::nullopt;
  text.remove_prefix(at + key.size());
  std::string value(text.substr(0, text.find_first_of(" \n")));
  text.remove_prefix(value.size());
  return value;
}

std::string need(std::string_view& text, std::string_view key) {
  auto value = take(text, key);
  if (!value) throw base::error("sgdisk does not say \"{}\" of a partition table", key);
  return *value;
}

uint64_t number(const std::string& digits) {
  uint64_t value = 0;
  auto [end, problem] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (problem != std::errc() || end != digits.data() + digits.size())
    throw base::error("sgdisk says {} where it says a number", digits);
  return value;
}

}  // namespace

std::string sgdisk_writing(const PartitionTable& table) {
  std::string line = std::format("sgdisk --clear --set-alignment=1 --disk-guid={}", table.disk_uuid);
  for (size_t k = 0; k < table.partitions.size(); k++) {
    const Partition& partition = table.partitions[k];
    if (!plain(partition.name) || !plain(partition.type) || !plain(partition.uuid) || !plain(table.disk_uuid))
      throw base::error("partition {} has a name or a GUID that sgdisk is not given", k + 1);
    uint64_t first = partition.start / kDiskSector, last = first + partition.bytes / kDiskSector - 1;
    line +=
        std::format(" --new={0}:{1}:{2} --change-name={0}:{3} --typecode={0}:{4} --partition-guid={0}:{5}",
                    k + 1, first, last, partition.name, partition.type, partition.uuid);
  }
  return line;
}

std::string sgdisk_printing(size_t partitions) {
  std::string line = "sgdisk --verify --print";
  for (size_t k = 0; k < partitions; k++) line += std::format(" --info={}", k + 1);
  return line;
}

PartitionTable parse_sgdisk(std::string_view said) {
  if (!said.contains("No problems found."))
    throw base::error("sgdisk has found problems in the partition table: {}", said.substr(0, 1000));
  // It finds no problem in a disk without a table: it tells of the one that it would write.
  if (said.contains("Creating new GPT entries"))
    throw base::error("sgdisk has found no partition table: {}", said.substr(0, 1000));
  std::string_view rest = said;
  PartitionTable table = {.disk_uuid = need(rest, "Disk identifier (GUID): "), .partitions = {}};
  while (auto type = take(rest, "Partition GUID code: ")) {
    Partition partition = {.name = {}, .type = *type, .uuid = need(rest, "Partition unique GUID: ")};
    partition.start = number(need(rest, "First sector: ")) * kDiskSector;
    partition.bytes = (number(need(rest, "Last sector: ")) + 1) * kDiskSector - partition.start;
    std::string name = need(rest, "Partition name: ");
    if (name.size() < 2 || !name.starts_with('\'') || !name.ends_with('\''))
      throw base::error("sgdisk says a partition's name as {}", name);
    partition.name = name.substr(1, name.size() - 2);
    table.partitions.push_back(partition);
  }
  return table;
}

}  // namespace image
