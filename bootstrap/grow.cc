#include "bootstrap/grow.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <format>

#include "base/error.h"
#include "base/fd.h"
#include "bootstrap/data.h"
#include "bootstrap/disks.h"

namespace bootstrap {
namespace {

constexpr uint64_t kSector = 512;      // of sysfs, whatever the disk's is
constexpr uint64_t kAlignment = 2048;  // 1 MiB: what is less is left free on purpose
constexpr uint64_t kGptEntries = 32;   // UEFI 2.10, 5.3.1: 16 KiB of them
constexpr uint64_t kGptBackup = kGptEntries + 1;
constexpr auto kGrowTimeout = std::chrono::minutes(10);

uint64_t number_in(const std::string& path) {
  return std::strtoull(base::read_file(path).c_str(), nullptr, 10);
}

std::string read_sectors(const base::Fd& disk, uint64_t first, uint64_t count) {
  std::string data(count * kSector, '\0');
  if (::lseek(disk.get(), static_cast<off_t>(first * kSector), SEEK_SET) < 0)
    throw base::sys_error("cannot read a partition table");
  base::read_full(disk.get(), std::as_writable_bytes(std::span(data)));
  return data;
}

}  // namespace

bool Growth::partition_grows() const { return disk_sectors >= start + sectors + kGptBackup + kAlignment; }

Growth growth_of(const std::string& state_dir, const std::string& sys) {
  struct stat about = {};
  if (::stat(state_dir.c_str(), &about) != 0) throw base::sys_error("cannot look at {}", state_dir);
  std::error_code none;
  const std::string directory = std::filesystem::canonical(
      std::format("{}/dev/block/{}:{}", sys, major(about.st_dev), minor(about.st_dev)), none);
  const std::string device = std::filesystem::path(directory).filename();
  std::vector<Partition> all = partitions(sys);
  auto partition = std::ranges::find(all, device, &Partition::device);
  if (none || partition == all.end() || partition->name != kDataName)
    throw base::error("{} is not on a partition {}, so there is nothing to grow", state_dir, kDataName);
  for (const Partition& other : all)
    if (other.disk == partition->disk &&
        number_in(std::format("{}/class/block/{}/start", sys, other.device)) >
            number_in(directory + "/start"))
      throw base::error("{} is not the last partition of {}, so it cannot grow", device, partition->disk);
  return {.disk = "/dev/" + partition->disk,
          .partition = "/dev/" + device,
          .number = partition->number,
          .file_system = {},
          .disk_sectors = number_in(std::format("{}/class/block/{}/size", sys, partition->disk)),
          .start = number_in(directory + "/start"),
          .sectors = number_in(directory + "/size")};
}

bool tables_agree(const std::string& disk, uint64_t sectors) {
  base::Fd fd = base::open(disk, O_RDONLY);
  const uint64_t last = sectors - 1;
  const std::string first_header = read_sectors(fd, 1, 1), last_header = read_sectors(fd, last, 1);
  auto place = [](const std::string& header) {  // its own sector, and the other one's
    std::array<uint64_t, 2> numbers = {};
    header.copy(reinterpret_cast<char*>(numbers.data()), sizeof numbers, 24);
    return numbers;
  };
  auto content = [](const std::string& header) {  // without its sum, its place and that of its entries
    return header.substr(0, 16) + header.substr(40, 32) + header.substr(80, 12);
  };
  return first_header.starts_with("EFI PART") && content(first_header) == content(last_header) &&
         place(first_header) == std::array<uint64_t, 2>{1, last} &&
         place(last_header) == std::array<uint64_t, 2>{last, 1} &&
         read_sectors(fd, 2, kGptEntries) == read_sectors(fd, last - kGptEntries, kGptEntries);
}

std::string grow(base::Runner& runner, const std::string& state_dir) {
  Growth growth = growth_of(state_dir);
  growth.file_system = file_system_of(growth.partition).value_or("");
  if (growth.partition_grows() || !tables_agree(growth.disk, growth.disk_sectors)) {
    const std::string number = std::to_string(growth.number);
    // The table at the disk's end first, then that at its beginning, each on disk before the next (libfdisk):
    // one of them is whole at any time. It moves the one at the end there, too.
    runner.run(
        {.argv = {"sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", "--partno", number, growth.disk},
         .input = "size=+\n"});
    runner.run({.argv = {"partx", "--update", "--nr", number, growth.disk}});
  }
  // Both look first whether there is anything to do.
  if (growth.file_system == "ext4")
    runner.run({.argv = {"resize2fs", growth.partition}, .timeout = kGrowTimeout});
  else
    runner.run({.argv = {"xfs_growfs", "-d", state_dir}, .timeout = kGrowTimeout});
  Growth now = growth_of(state_dir);
  return std::format("{} has {} MiB of {}", now.partition, now.sectors * kSector >> 20, now.disk);
}

}  // namespace bootstrap
