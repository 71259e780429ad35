#pragma once
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace bootstrap {

/// The GPT names of a node's partitions (the disk of the image has them).
constexpr std::string_view kEspName = "drover-esp";
constexpr std::string_view kDataName = "drover-data";
std::string root_name(std::string_view slot);  ///< "drover-root-a"

/// A partition that the kernel sees.
struct Partition {
  std::string name;    ///< in the GPT
  std::string device;  ///< "vda3": in /dev and in /sys/class/block
  std::string disk;    ///< "vda"
  unsigned number = 0;
  bool operator==(const Partition&) const = default;
};

/// All partitions that have a name, those of the disk first that comes first: sda before sdb before sdaa.
/// `sys` is where sysfs is mounted. The names are the uevents' PARTNAME.
std::vector<Partition> partitions(const std::string& sys = "/sys");

/// The partition of that name on the first disk that has one, or on `disk`.
std::optional<Partition> find_partition(const std::vector<Partition>& all, std::string_view name,
                                        std::string_view disk = {});

/// A sentence where several disks have a partition of that name, and so one had to be chosen; empty
/// otherwise.
std::string about_several(const std::vector<Partition>& all, std::string_view name);

/// The disk below the device of number MAJOR:MINOR, which may be a partition of it or what the device mapper
/// has made of one; nullopt for what has no disk.
std::optional<std::string> disk_below(unsigned major, unsigned minor, const std::string& sys = "/sys");
/// The same for the file system at `path`.
std::optional<std::string> disk_of(const std::string& path, const std::string& sys = "/sys");

}  // namespace bootstrap
