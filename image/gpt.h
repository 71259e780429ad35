#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

/// GUID partition tables (UEFI 2.10, chapter 5), by libfdisk, on raw files and on block devices of 512-byte
/// sectors.
namespace image {

constexpr uint64_t kDiskSector = 512;

/// Partition types: the GUIDs of UEFI, of GRUB (its manual, "BIOS installation") and of Linux file systems.
constexpr std::string_view kTypeBiosBoot = "21686148-6449-6E6F-744E-656564454649";
constexpr std::string_view kTypeEsp = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B";
constexpr std::string_view kTypeLinux = "0FC63DAF-8483-4772-8E79-3D69D8477DE4";

struct Partition {
  std::string name;    ///< up to 36 UTF-16 units; ours are ASCII
  std::string type;    ///< a GUID, digits in upper case
  std::string uuid;    ///< a GUID, digits in upper case
  uint64_t start = 0;  ///< in bytes, as `bytes`: multiples of kDiskSector
  uint64_t bytes = 0;

  bool operator==(const Partition&) const = default;
};

struct PartitionTable {
  std::string disk_uuid;              ///< a GUID, digits in upper case
  std::vector<Partition> partitions;  ///< the first is partition 1, and there is no gap between the numbers
  bool operator==(const PartitionTable&) const = default;
};

/// Writes the table, its copy at the end, and a protective MBR onto a file that has its size already, or a
/// device. What stood in their sectors is gone, the MBR's boot code as well.
void write_gpt(const std::string& path, const PartitionTable& table);

/// Throws when there is no GPT, when one of its two copies is damaged or not at its place, or when a
/// partition number is left out.
PartitionTable read_gpt(const std::string& path);

/// The one with that name; throws when there is none, or more than one.
const Partition& find_partition(const PartitionTable& table, std::string_view name);

}  // namespace image
