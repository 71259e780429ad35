#include "image/gpt.h"

#include <libfdisk/libfdisk.h>

#include <algorithm>
#include <cctype>
#include <memory>

#include "base/error.h"
#include "base/fd.h"

namespace image {
namespace {

template <auto Free>
struct Freed {
  void operator()(auto* object) const { Free(object); }
};
using Disk = std::unique_ptr<fdisk_context, Freed<fdisk_unref_context>>;
using Entry = std::unique_ptr<fdisk_partition, Freed<fdisk_unref_partition>>;
using Entries = std::unique_ptr<fdisk_table, Freed<fdisk_unref_table>>;
using Type = std::unique_ptr<fdisk_parttype, Freed<fdisk_unref_parttype>>;
using Item = std::unique_ptr<fdisk_labelitem, Freed<fdisk_unref_labelitem>>;

/// libfdisk returns -errno.
void need(int result, std::string_view what, const std::string& path) {
  if (result < 0) throw base::Error(std::format("cannot {} {}", what, path), -result);
}

template <class Object>
Object made(typename Object::pointer object) {
  if (object == nullptr) throw base::Error("libfdisk has no memory", ENOMEM);
  return Object(object);
}

/// What libfdisk has to say about a table, while it reads or checks it, comes as questions.
int keep_warnings(fdisk_context*, fdisk_ask* ask, void* data) {
  auto* said = static_cast<std::vector<std::string>*>(data);
  int type = fdisk_ask_get_type(ask);
  if (type == FDISK_ASKTYPE_WARN || type == FDISK_ASKTYPE_WARNX)
    said->emplace_back(fdisk_ask_print_get_mesg(ask));
  return 0;
}

Disk open_disk(const std::string& path, bool read_only, std::vector<std::string>& said) {
  Disk disk = made<Disk>(fdisk_new_context());
  fdisk_disable_dialogs(disk.get(), 1);
  fdisk_set_ask(disk.get(), keep_warnings, &said);
  need(fdisk_assign_device(disk.get(), path.c_str(), read_only ? 1 : 0), "open", path);
  if (fdisk_get_sector_size(disk.get()) != kDiskSector)
    throw base::error("{} has sectors of {} bytes: only {} are supported", path,
                      fdisk_get_sector_size(disk.get()), kDiskSector);
  return disk;
}

Entry entry_of(fdisk_context* disk, size_t number, const Partition& partition) {
  Entry entry = made<Entry>(fdisk_new_partition());
  Type type(fdisk_label_parse_parttype(fdisk_get_label(disk, nullptr), partition.type.c_str()));
  if (!type) throw base::error("{} is not the GUID of a partition type", partition.type);
  if (partition.start % kDiskSector != 0 || partition.bytes % kDiskSector != 0 || partition.bytes == 0)
    throw base::error("partition {} is not made of whole sectors", partition.name);
  fdisk_partition_set_partno(entry.get(), number);
  fdisk_partition_set_start(entry.get(), partition.start / kDiskSector);
  fdisk_partition_set_size(entry.get(), partition.bytes / kDiskSector);
  fdisk_partition_size_explicit(entry.get(), 1);  // else it is rounded
  fdisk_partition_set_type(entry.get(), type.get());
  fdisk_partition_set_name(entry.get(), partition.name.c_str());
  fdisk_partition_set_uuid(entry.get(), partition.uuid.c_str());
  return entry;
}

std::string text(const char* found) { return found == nullptr ? "" : found; }

std::string upper(std::string text) {
  std::ranges::transform(text, text.begin(), [](unsigned char c) { return std::toupper(c); });
  return text;
}

Partition partition_of(fdisk_partition* entry) {
  fdisk_parttype* type = fdisk_partition_get_type(entry);
  return {.name = text(fdisk_partition_get_name(entry)),
          .type = upper(type == nullptr ? "" : text(fdisk_parttype_get_string(type))),
          .uuid = upper(text(fdisk_partition_get_uuid(entry))),
          .start = fdisk_partition_get_start(entry) * kDiskSector,
          .bytes = fdisk_partition_get_size(entry) * kDiskSector};
}

std::string disk_uuid_of(fdisk_context* disk) {
  Item item = made<Item>(fdisk_new_labelitem());
  const char* found = nullptr;
  if (fdisk_get_disklabel_item(disk, FDISK_LABELITEM_ID, item.get()) != 0) return {};
  fdisk_labelitem_get_data_string(item.get(), &found);
  return upper(text(found));
}

/// Of what libfdisk has said the first sentence, for a message.
std::string first_of(const std::vector<std::string>& said) {
  return said.empty() ? "it is damaged" : said.front();
}

}  // namespace

void write_gpt(const std::string& path, const PartitionTable& table) {
  std::vector<std::string> said;
  Disk disk = open_disk(path, /*read_only=*/false, said);
  need(fdisk_create_disklabel(disk.get(), "gpt"), "make a partition table for", path);
  need(fdisk_set_disklabel_id_from_string(disk.get(), table.disk_uuid.c_str()), "set the GUID of", path);
  for (size_t k = 0; k < table.partitions.size(); k++) {
    const Partition& partition = table.partitions[k];
    Entry entry = entry_of(disk.get(), k, partition);
    need(fdisk_add_partition(disk.get(), entry.get(), nullptr),
         std::format("add partition {} to the table of", partition.name), path);
  }
  need(fdisk_write_disklabel(disk.get()), "write the partition table of", path);
  need(fdisk_deassign_device(disk.get(), /*nosync=*/1), "close", path);  // its sync is that of all disks
  base::fsync_path(path);
  if (read_gpt(path) != table)
    throw base::error("{} does not hold the partition table that was written to it", path);
}

PartitionTable read_gpt(const std::string& path) {
  std::vector<std::string> said;
  Disk disk = open_disk(path, /*read_only=*/true, said);
  if (!fdisk_is_labeltype(disk.get(), FDISK_DISKLABEL_GPT))
    throw base::error("{} has no GUID partition table", path);
  // The first of the two copies that is whole is what libfdisk goes by; of the other it only speaks.
  if (fdisk_verify_disklabel(disk.get()) != 0 || fdisk_label_is_changed(fdisk_get_label(disk.get(), nullptr)))
    throw base::error("the partition table of {} is not whole: {}", path, first_of(said));
  fdisk_table* found = nullptr;
  need(fdisk_get_partitions(disk.get(), &found), "read the partition table of", path);
  Entries entries(found);
  PartitionTable table = {.disk_uuid = disk_uuid_of(disk.get()), .partitions = {}};
  for (size_t k = 0; k < fdisk_table_get_nents(entries.get()); k++) {
    fdisk_partition* entry = fdisk_table_get_partition_by_partno(entries.get(), k);
    if (entry == nullptr) throw base::error("{} has no partition {}, and later ones", path, k + 1);
    table.partitions.push_back(partition_of(entry));
  }
  return table;
}

const Partition& find_partition(const PartitionTable& table, std::string_view name) {
  const Partition* found = nullptr;
  for (const Partition& partition : table.partitions) {
    if (partition.name != name) continue;
    if (found != nullptr) throw base::error("two partitions are named {}", name);
    found = &partition;
  }
  if (found == nullptr) throw base::error("no partition is named {}", name);
  return *found;
}

}  // namespace image
