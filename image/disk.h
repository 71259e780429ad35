#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/context.h"
#include "image/gpt.h"
#include "image/slot_state.h"

/// The whole disk of a new node: docs/formats/image-disk.md has it byte by byte.
namespace image {

/// Names of the partitions, by which a node finds them.
constexpr std::string_view kNameBios = "drover-bios", kNameEsp = "drover-esp", kNameRootA = "drover-root-a",
                           kNameRootB = "drover-root-b", kNameData = "drover-data";
std::string_view root_partition(Slot slot);

/// What does not depend on what the image holds. Sizes are multiples of 1 MiB.
struct DiskLayout {
  uint64_t slot_bytes = 0;                ///< of each root partition
  uint64_t esp_bytes = 128 << 20;         ///< holds both slots' kernels; 34 MiB at least, as it is FAT32
  uint64_t data_bytes = 0;                ///< the data partition grows to the disk on a node's first boot
  std::string data_file_system = "ext4";  ///< or "xfs", which needs 300 MiB at least
  std::string seed;   ///< all GUIDs and serial numbers derive from it: the definition hash
  int64_t clock = 0;  ///< seconds since 1970: no time on the disk is another one
};

/// A file that the data partition holds from the beginning. Its directories are made, root's and 0755.
struct DataFile {
  std::string path;  ///< "node.toml", "ssh/key": names of letters, digits, '.', '-', '_'
  std::string content;
  uint32_t mode = 0644;
};

/// Paths of the parts. `loader_dir` is what make_loader() has made.
struct DiskParts {
  std::string root_image, vmlinuz, initrd, boot_cfg, loader_dir;
  /// Slots that are not bad here are filled, all with the same parts.
  SlotState state = SlotState{}.activate(Slot::kA, kMostTries);
  std::vector<DataFile> data_files = {};
};

/// The partitions of a disk of this layout, and the whole disk's size. Throws when a size cannot be.
PartitionTable plan_partitions(const DiskLayout& layout);
uint64_t disk_bytes(const DiskLayout& layout);

/// A file of the ESP, from a file or (`source` empty) with this content.
struct EspFile {
  std::string path;  ///< "drover/a/vmlinuz"
  std::string source;
  std::string content;
};
/// All files of the ESP, in the order in which they are written.
std::vector<EspFile> esp_files(const DiskParts& parts);
/// The directories of the ESP, parents first.
std::vector<std::string> esp_directories();

/// What stands in front of GRUB's file system on BIOS: the MBR's boot code, and the partition drover-bios.
struct BiosLoader {
  std::string boot_code;  ///< kBootCodeBytes
  std::string core;       ///< whole sectors
};
BiosLoader bios_loader(const DiskParts& parts, const Partition& bios);

/// Throws, with the way out, when a part does not fit into its partition or is not there.
void check_parts(const DiskLayout& layout, const DiskParts& parts);

constexpr std::string_view kEspLabel = "DROVER-ESP";
/// The ESP's serial number, of eight hex digits.
std::string esp_serial(const DiskLayout& layout);
/// The UUID of the data partition's file system.
std::string data_uuid(const DiskLayout& layout);

/// Makes the sparse raw disk `out`, with programs that need neither root nor a kernel: libfdisk, mtools,
/// mke2fs or mkfs.xfs. The same layout and parts give the same bytes. `out` may be there and is then
/// replaced; after an Error there is no `out`. Its directory gets temporary files.
void compose_disk(base::Context& context, const DiskLayout& layout, const DiskParts& parts,
                  const std::string& out);

}  // namespace image
