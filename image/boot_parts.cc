#include "image/boot_parts.h"

#include <sys/stat.h>

#include "base/error.h"
#include "base/fd.h"
#include "image/guestfs.h"
#include "image/loader.h"
#include "image/sparse.h"

namespace image {
namespace {

/// iPXE wraps root.img into an archive of its own behind the initrd, as the file /root.img. A kernel that
/// UEFI starts finds all of it by the name initrd.magic; BIOS's passes over the word.
std::string network_boot_script(const std::string& line) {
  return std::format(
      "#!ipxe\n"
      "# Made by drover: this image without a disk. The names are relative to this script's.\n"
      "kernel vmlinuz initrd=initrd.magic drover.network {}\n"
      "initrd initrd\n"
      "initrd root.img /root.img mode=644\n"
      "boot\n",
      line);
}

}  // namespace

void make_boot_parts(base::Context& context, const Definition& definition, const Root& root,
                     const std::string& directory) {
  std::string line =
      std::format("drover.root={} drover.hash-offset={} gpt", root.root_hash, root.hash_offset());
  if (!definition.kernel.console.empty()) line += " console=tty0 console=" + definition.kernel.console;
  for (const base::Word& word : definition.kernel.command_line) line += " " + word.text;
  base::write_file(directory + "/boot.cfg",
                   std::format("linux $prefix/$choice/vmlinuz drover.slot=$choice {}\n"
                               "initrd $prefix/$choice/initrd\n",
                               line));
  base::write_file(directory + "/boot.ipxe", network_boot_script(line));
  make_loader(context, directory + "/loader");
}

DiskLayout make_disk_part(base::Context& context, const Definition& definition, int64_t clock,
                          const BuildOptions& options, const std::string& directory) {
  DiskParts parts = {.root_image = directory + "/root.img",
                     .vmlinuz = directory + "/vmlinuz",
                     .initrd = directory + "/initrd",
                     .boot_cfg = directory + "/boot.cfg",
                     .loader_dir = directory + "/loader"};
  struct stat root;
  if (::stat(parts.root_image.c_str(), &root) != 0) throw base::sys_error("cannot look at root.img");
  uint64_t slot =
      definition.slots.bytes.value_or(static_cast<uint64_t>(root.st_size) * definition.slots.factor);
  DiskLayout layout = {.slot_bytes = (slot + kMiB - 1) / kMiB * kMiB,
                       .data_bytes = definition.data.bytes,
                       .data_file_system = definition.data.file_system,
                       .seed = definition.hash,
                       .clock = clock};
  std::string disk = directory + "/disk.img";
  if (options.backend == Backend::kGuestfs)
    compose_disk_guestfs(context, layout, parts, disk, options.cache_dir);
  else
    compose_disk(context, layout, parts, disk);
  return layout;
}

}  // namespace image
