#include <filesystem>

#include "base/error.h"
#include "base/undo.h"
#include "image/appliance.h"
#include "image/guestfs.h"
#include "image/sparse.h"

namespace image {
namespace {

constexpr int64_t kBytesPerInode = 16384;  // as make_data_system() has it

// Where a FAT has its serial number (Microsoft's FAT specification 1.03, 3.2 and 3.3), and FAT32 a copy of
// it.
constexpr uint64_t kSerialFat32 = 67, kSerialFat16 = 39, kFat32Name = 82, kFat32Copy = 6 * kDiskSector;

/// libguestfs makes a FAT with a serial number of the clock's.
void set_serial(Appliance& appliance, const std::string& esp, const std::string& digits) {
  auto number = static_cast<uint32_t>(std::stoul(digits, nullptr, 16));
  std::string bytes;
  for (int k = 0; k < 4; k++) bytes += static_cast<char>(number >> (8 * k));
  bool large = appliance.read(esp, 0, kDiskSector).substr(kFat32Name, 5) == "FAT32";
  appliance.write(esp, large ? kSerialFat32 : kSerialFat16, bytes);
  if (large) appliance.write(esp, kFat32Copy + kSerialFat32, bytes);
}

void fill_esp(Appliance& appliance, const std::string& esp, const DiskParts& parts,
              const std::string& serial) {
  appliance.make_fat(esp, std::string(kEspLabel));
  set_serial(appliance, esp, serial);
  appliance.mount(esp, /*read_only=*/false);
  for (const std::string& path : esp_directories()) appliance.make_directory("/" + path);
  for (const EspFile& file : esp_files(parts)) {
    if (file.source.empty())
      appliance.write_file("/" + file.path, file.content);
    else
      appliance.upload(file.source, "/" + file.path);
  }
  appliance.unmount();
}

void fill_data(Appliance& appliance, const std::string& data, const DiskLayout& layout,
               const std::vector<DataFile>& files) {
  std::string label(kNameData), uuid = data_uuid(layout);
  if (layout.data_file_system == "xfs") {
    appliance.make_xfs(data, label, uuid);
  } else {
    appliance.make_ext4(data, label, uuid, kBytesPerInode);
    appliance.shell("tune2fs -O project -Q prjquota " + data);
  }
  appliance.mount(data, /*read_only=*/false);
  for (const DataFile& file : files) {
    std::string path = "/" + file.path;
    if (std::string parent = std::filesystem::path(path).parent_path(); parent != "/")
      appliance.make_directory(parent);
    appliance.write_file(path, file.content);
    appliance.set_mode(path, file.mode);
  }
  appliance.unmount();
}

}  // namespace

void compose_disk_guestfs(base::Context& context, const DiskLayout& layout, const DiskParts& parts,
                          const std::string& out, const std::string& cache_dir) {
  PartitionTable table = plan_partitions(layout);
  check_parts(layout, parts);
  base::Phase phase(context.progress, "disk");
  base::Undo undo;
  undo.add("remove " + out, [&] { std::filesystem::remove(out); });
  make_sparse(out, disk_bytes(layout));
  Appliance appliance(context, cache_dir,
                      {{.device = kDiskDevice, .path = out, .read_only = false},
                       {.device = kRootImageDevice, .path = parts.root_image}});
  appliance.write_table(kDiskDevice, table);
  BiosLoader loader = bios_loader(parts, find_partition(table, kNameBios));
  appliance.write(kDiskDevice, 0, loader.boot_code);
  appliance.write(partition_device(table, kNameBios), 0, loader.core);
  fill_esp(appliance, partition_device(table, kNameEsp), parts, esp_serial(layout));
  for (Slot slot : {Slot::kA, Slot::kB}) {
    if (parts.state.at(slot).health == Health::kBad) continue;
    appliance.copy(kRootImageDevice, partition_device(table, root_partition(slot)),
                   std::filesystem::file_size(parts.root_image));
  }
  fill_data(appliance, partition_device(table, kNameData), layout, parts.data_files);
  appliance.close();
  undo.commit();
}

}  // namespace image
