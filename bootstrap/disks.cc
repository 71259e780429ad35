#include "bootstrap/disks.h"

#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <filesystem>
#include <format>
#include <tuple>

#include "base/error.h"
#include "base/fd.h"

namespace bootstrap {
namespace {

namespace fs = std::filesystem;

/// The kernel gives names in the order in which it finds disks: sdz comes before sdaa.
auto rank(const Partition& partition) {
  return std::tuple(partition.disk.size(), partition.disk, partition.number);
}

/// The value of KEY=VALUE on a line of its own.
std::string value_in(std::string_view uevent, std::string_view key) {
  for (size_t begin = 0; begin < uevent.size();) {
    size_t end = std::min(uevent.find('\n', begin), uevent.size());
    std::string_view line = uevent.substr(begin, end - begin);
    if (line.starts_with(key) && line.substr(key.size()).starts_with('='))
      return std::string(line.substr(key.size() + 1));
    begin = end + 1;
  }
  return {};
}

/// The names in a directory; none where it is not there.
std::vector<std::string> names_in(const fs::path& directory) {
  std::vector<std::string> names;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(directory, error)) names.push_back(entry.path().filename());
  return names;
}

/// The whole disk of a block device's directory in sysfs, through all that lies over it.
std::string disk_of_directory(const fs::path& directory, int depth = 0) {
  constexpr int kDeepest = 8;
  if (base::exists(directory / "partition")) return directory.parent_path().filename();
  std::vector<std::string> below = names_in(directory / "slaves");
  if (below.empty() || depth == kDeepest) return directory.filename();
  return disk_of_directory(fs::canonical(directory / "slaves" / std::ranges::min(below)), depth + 1);
}

}  // namespace

std::string root_name(std::string_view slot) { return std::format("drover-root-{}", slot); }

std::vector<Partition> partitions(const std::string& sys) {
  std::vector<Partition> found;
  const fs::path directory = fs::path(sys) / "class/block";
  for (const std::string& device : names_in(directory)) {
    // A disk may be pulled out while we look.
    auto uevent = base::read_file_if_exists(directory / device / "uevent");
    auto number = base::read_file_if_exists(directory / device / "partition");
    std::error_code error;
    fs::path real = fs::canonical(directory / device, error);
    std::string name = uevent ? value_in(*uevent, "PARTNAME") : "";
    if (!number || name.empty() || error) continue;
    found.push_back({.name = name,
                     .device = device,
                     .disk = real.parent_path().filename(),
                     .number = static_cast<unsigned>(std::strtoul(number->c_str(), nullptr, 10))});
  }
  std::ranges::sort(found, {}, rank);
  return found;
}

std::optional<Partition> find_partition(const std::vector<Partition>& all, std::string_view name,
                                        std::string_view disk) {
  auto found = std::ranges::find_if(all, [&](const Partition& partition) {
    return partition.name == name && (disk.empty() || partition.disk == disk);
  });
  if (found == all.end()) return std::nullopt;
  return *found;
}

std::string about_several(const std::vector<Partition>& all, std::string_view name) {
  std::string disks;
  auto first = find_partition(all, name);
  for (const Partition& partition : all)
    if (partition.name == name && partition.disk != first->disk) disks += ", " + partition.disk;
  if (disks.empty()) return {};
  return std::format("several disks have a partition {}: {}{}; that of {} is taken", name, first->disk, disks,
                     first->disk);
}

std::optional<std::string> disk_below(unsigned major, unsigned minor, const std::string& sys) {
  std::error_code error;
  fs::path directory = fs::canonical(std::format("{}/dev/block/{}:{}", sys, major, minor), error);
  if (error) return std::nullopt;
  return disk_of_directory(directory);
}

std::optional<std::string> disk_of(const std::string& path, const std::string& sys) {
  struct stat about = {};
  if (::stat(path.c_str(), &about) != 0) throw base::sys_error("cannot look at {}", path);
  return disk_below(major(about.st_dev), minor(about.st_dev), sys);
}

}  // namespace bootstrap
