#include "image/disk.h"

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <map>

#include "base/error.h"
#include "base/fd.h"
#include "base/mount.h"
#include "base/undo.h"
#include "image/bios_boot.h"
#include "image/data_system.h"
#include "image/sparse.h"
#include "rootfs/erofs.h"

namespace image {
namespace {

constexpr uint64_t kBiosBytes = kMiB;
// The table's copy, 33 sectors, stands in the last one.
constexpr uint64_t kTailBytes = kMiB;
// FAT32 is what has at least 65,525 clusters (Microsoft's FAT specification 1.03); some firmware takes no
// other FAT.
constexpr uint64_t kFat32Clusters = 66'000, kMostClusterSectors = 8;
constexpr uint64_t kLeastEsp = 34 * kMiB, kLeastExt4 = 64 * kMiB, kLeastXfs = 300 * kMiB;
constexpr uint64_t kMostPartition = uint64_t{1} << 45;  // 32 TiB: sums of them cannot overflow
// 1980-01-01, where the time of FAT begins.
constexpr int64_t kFatEpoch = 315'532'800;

std::string guid(const DiskLayout& layout, std::string_view what) {
  std::string text = rootfs::uuid_from(std::format("{} {}", layout.seed, what));
  std::ranges::transform(text, text.begin(), [](unsigned char c) { return std::toupper(c); });
  return text;
}

void check_size(std::string_view what, uint64_t bytes, uint64_t least) {
  if (bytes >= least && bytes <= kMostPartition && bytes % kMiB == 0) return;
  throw base::error("the {} cannot have {} bytes: a multiple of 1 MiB from {} to {} is needed", what, bytes,
                    base::human_size(least), base::human_size(kMostPartition));
}

uint64_t size_of(const std::string& path) {
  std::error_code problem;
  uint64_t size = std::filesystem::file_size(path, problem);
  if (problem) throw base::Error(std::format("cannot look at {}", path), problem.value());
  return size;
}

bool filled(const DiskParts& parts, Slot slot) { return parts.state.at(slot).health != Health::kBad; }

/// Sectors of a cluster: as many as leave a FAT32.
uint64_t cluster_sectors(uint64_t esp_bytes) {
  uint64_t sectors = 1;
  while (sectors < kMostClusterSectors && esp_bytes / kDiskSector / (2 * sectors) >= kFat32Clusters)
    sectors *= 2;
  return sectors;
}

bool plain_path(std::string_view path) {
  for (size_t begin = 0; begin <= path.size();) {
    size_t end = std::min(path.find('/', begin), path.size());
    std::string_view name = path.substr(begin, end - begin);
    bool plain = std::ranges::all_of(name, [](unsigned char c) {
      return (std::isalnum(c) != 0 && c < 128) || c == '.' || c == '-' || c == '_';
    });
    if (name.empty() || name.starts_with('.') || !plain) return false;
    begin = end + 1;
  }
  return true;
}

/// The direct backend's way to a disk, step by step.
class Composer {
 public:
  Composer(base::Context& context, const DiskLayout& layout, const DiskParts& parts, const std::string& out)
      : context_(context),
        layout_(layout),
        parts_(parts),
        out_(out),
        table_(plan_partitions(layout)),
        scratch_(base::TempDir::make(parent_of(out), ".disk-")) {}

  void run() {
    base::Phase phase(context_.progress, "disk");
    make_sparse(out_, disk_bytes(layout_));
    write_gpt(out_, table_);
    write_bios_loader();
    write_esp();
    write_roots();
    write_data();
  }

 private:
  static std::string parent_of(const std::string& path) {
    std::string parent = std::filesystem::path(path).parent_path();
    return parent.empty() ? "." : parent;
  }

  void write_bios_loader() {
    const Partition& bios = find_partition(table_, kNameBios);
    BiosLoader loader = bios_loader(parts_, bios);
    write_at(out_, 0, loader.boot_code);
    write_at(out_, bios.start, loader.core);
  }

  base::Result mtools(std::vector<std::string> argv) {
    return context_.runner.run(
        {.argv = std::move(argv),
         .env = {{"MTOOLSRC", "/dev/null"},
                 {"TZ", "UTC"},
                 {"SOURCE_DATE_EPOCH", std::to_string(std::max(layout_.clock, kFatEpoch))}}});
  }

  void write_esp() {
    const Partition& esp = find_partition(table_, kNameEsp);
    std::string drive = std::format("{}@@{}", std::filesystem::absolute(out_).string(), esp.start);
    auto number = [](uint64_t value) { return std::to_string(value); };
    mtools({"mformat", "-i", drive, "-F", "-T", number(esp.bytes / kDiskSector), "-h", "255", "-s", "63",
            "-H", number(esp.start / kDiskSector), "-c", number(cluster_sectors(esp.bytes)), "-N",
            esp_serial(layout_), "-v", std::string(kEspLabel), "::"});
    std::vector<std::string> directories = {"mmd", "-i", drive};
    for (const std::string& path : esp_directories()) directories.push_back("::" + path);
    mtools(directories);
    for (const EspFile& file : esp_files(parts_)) {
      std::string source = file.source;
      if (source.empty()) base::write_file(source = scratch_.path() + "/content", file.content);
      mtools({"mcopy", "-i", drive, source, "::" + file.path});
    }
  }

  void write_roots() {
    for (Slot slot : {Slot::kA, Slot::kB}) {
      if (!filled(parts_, slot)) continue;
      base::Phase phase(context_.progress, std::format("slot {}", name(slot)), size_of(parts_.root_image));
      copy_sparse(parts_.root_image, out_, find_partition(table_, root_partition(slot)).start,
                  [&](uint64_t done) { phase.at(done); });
    }
  }

  void write_data() {
    base::Phase phase(context_.progress, "data");
    std::string file = scratch_.path() + "/data.img";
    make_data_system(context_, layout_, parts_.data_files, scratch_.path(), file);
    copy_sparse(file, out_, find_partition(table_, kNameData).start);
  }

  base::Context& context_;
  const DiskLayout& layout_;
  const DiskParts& parts_;
  const std::string& out_;
  PartitionTable table_;
  base::TempDir scratch_;
};

}  // namespace

std::string_view root_partition(Slot slot) { return slot == Slot::kA ? kNameRootA : kNameRootB; }

PartitionTable plan_partitions(const DiskLayout& layout) {
  if (layout.data_file_system != "ext4" && layout.data_file_system != "xfs")
    throw base::error("the data partition's file system is {}: ext4 or xfs is needed",
                      layout.data_file_system);
  check_size("slots", layout.slot_bytes, kMiB);
  check_size("ESP", layout.esp_bytes, kLeastEsp);
  check_size("data partition", layout.data_bytes, layout.data_file_system == "xfs" ? kLeastXfs : kLeastExt4);
  PartitionTable table = {.disk_uuid = guid(layout, "disk"), .partitions = {}};
  uint64_t start = kMiB;  // the table stands before it
  auto add = [&](std::string_view name, std::string_view type, uint64_t bytes) {
    table.partitions.push_back({.name = std::string(name),
                                .type = std::string(type),
                                .uuid = guid(layout, name),
                                .start = start,
                                .bytes = bytes});
    start += bytes;
  };
  add(kNameBios, kTypeBiosBoot, kBiosBytes);
  add(kNameEsp, kTypeEsp, layout.esp_bytes);
  add(kNameRootA, kTypeLinux, layout.slot_bytes);
  add(kNameRootB, kTypeLinux, layout.slot_bytes);
  add(kNameData, kTypeLinux, layout.data_bytes);
  return table;
}

uint64_t disk_bytes(const DiskLayout& layout) {
  const Partition last = plan_partitions(layout).partitions.back();
  return last.start + last.bytes + kTailBytes;
}

std::vector<std::string> esp_directories() {
  return {"EFI", "EFI/BOOT", "drover", "drover/a", "drover/b", "drover/rescue"};
}

std::vector<EspFile> esp_files(const DiskParts& parts) {
  std::vector<EspFile> files;
  auto add = [&](std::string path, std::string source) {
    files.push_back({.path = std::move(path), .source = std::move(source), .content = {}});
  };
  add("EFI/BOOT/BOOTX64.EFI", parts.loader_dir + "/BOOTX64.EFI");
  add("drover/grub.cfg", parts.loader_dir + "/grub.cfg");
  files.push_back({.path = "drover/slot-state", .source = {}, .content = render(parts.state)});
  for (Slot slot : {Slot::kA, Slot::kB}) {
    if (!filled(parts, slot)) continue;
    add(std::format("drover/{}/vmlinuz", name(slot)), parts.vmlinuz);
    add(std::format("drover/{}/initrd", name(slot)), parts.initrd);
    add(std::format("drover/{}/boot.cfg", name(slot)), parts.boot_cfg);
  }
  add("drover/rescue/ipxe.efi", parts.loader_dir + "/ipxe.efi");
  add("drover/rescue/ipxe.lkrn", parts.loader_dir + "/ipxe.lkrn");
  return files;
}

BiosLoader bios_loader(const DiskParts& parts, const Partition& bios) {
  uint64_t sector = bios.start / kDiskSector;
  BiosLoader loader = {.boot_code = boot_code(base::read_file(parts.loader_dir + "/boot.img"), sector),
                       .core = core_at(base::read_file(parts.loader_dir + "/core.img"), sector)};
  if (loader.core.size() > bios.bytes)
    throw base::error("core.img has {} bytes, its partition {}", loader.core.size(), bios.bytes);
  return loader;
}

void check_parts(const DiskLayout& layout, const DiskParts& parts) {
  uint64_t root = size_of(parts.root_image);
  if (root > layout.slot_bytes)
    throw base::error("the root image has {}, a slot {}", base::human_size(root),
                      base::human_size(layout.slot_bytes))
        .hint("make slots larger in the definition, or the root smaller (`drover image explain`)");
  // Both slots, as an update will fill the other one; and while a kernel is replaced, the old one is there
  // still.
  uint64_t slot = size_of(parts.vmlinuz) + size_of(parts.initrd) + size_of(parts.boot_cfg);
  uint64_t needed = 2 * slot + layout.esp_bytes / 64 + kMiB;
  for (const EspFile& file : esp_files(parts)) {
    if (file.path.starts_with("EFI") || file.path.starts_with("drover/rescue"))
      needed += size_of(file.source);
  }
  if (needed > layout.esp_bytes)
    throw base::error("the ESP has {}, and {} are needed for the kernels and initrds of two slots",
                      base::human_size(layout.esp_bytes), base::human_size(needed))
        .hint("make the ESP larger in the definition, or the initrd smaller");
  for (const DataFile& file : parts.data_files) {
    if (!plain_path(file.path) || file.mode > 0777)
      throw base::error("{} cannot be put onto the data partition", file.path)
          .hint("relative paths of names of letters, digits, '.', '-', '_', modes up to 0777");
  }
}

std::string esp_serial(const DiskLayout& layout) { return guid(layout, "esp serial").substr(0, 8); }

std::string data_uuid(const DiskLayout& layout) { return rootfs::uuid_from(layout.seed + " data"); }

void compose_disk(base::Context& context, const DiskLayout& layout, const DiskParts& parts,
                  const std::string& out) {
  plan_partitions(layout);
  check_parts(layout, parts);
  base::Undo undo;
  undo.add("remove " + out, [&] { std::filesystem::remove(out); });
  Composer(context, layout, parts, out).run();
  undo.commit();
}

}  // namespace image
