#include "image/bios_boot.h"

#include "base/error.h"

namespace image {
namespace {

constexpr size_t kSector = 512;
constexpr size_t kKernelSector = 0x5c;  // GRUB_BOOT_MACHINE_KERNEL_SECTOR, 64 bits
constexpr size_t kDriveCheck = 0x66;    // GRUB_BOOT_MACHINE_DRIVE_CHECK, a jump of two bytes
constexpr std::string_view kNoOperations = "\x90\x90";
// The last of the block lists in core.img's first sector: GRUB_BOOT_MACHINE_LIST_SIZE bytes (a sector of 64
// bits, a number of sectors and a segment of 16 bits each). It grows towards lower addresses, and an empty
// one ends it.
constexpr size_t kListBytes = 12, kFirstList = kSector - kListBytes, kSecondList = kFirstList - kListBytes;
constexpr size_t kMostSectors = 0xffff;

void put(std::string& bytes, size_t at, uint64_t value, size_t size) {
  for (size_t k = 0; k < size; k++) bytes[at + k] = static_cast<char>(value >> (8 * k));
}

uint64_t get(std::string_view bytes, size_t at, size_t size) {
  uint64_t value = 0;
  for (size_t k = 0; k < size; k++) value |= uint64_t{static_cast<unsigned char>(bytes[at + k])} << (8 * k);
  return value;
}

}  // namespace

std::string boot_code(std::string_view boot_image, uint64_t core_sector) {
  if (boot_image.size() != kSector || get(boot_image, kSector - 2, 2) != 0xaa55)
    throw base::error("boot.img is not GRUB's boot sector for BIOS");
  std::string code(boot_image.substr(0, kBootCodeBytes));
  put(code, kKernelSector, core_sector, 8);
  // Some firmware starts a hard disk with a drive number of a floppy; the code behind this jump mends it.
  code.replace(kDriveCheck, kNoOperations.size(), kNoOperations);
  return code;
}

std::string core_at(std::string_view core_image, uint64_t core_sector) {
  size_t sectors = (core_image.size() + kSector - 1) / kSector;
  if (sectors < 2 || sectors > kMostSectors)
    throw base::error("core.img has {} bytes: it is not GRUB's for BIOS", core_image.size());
  // grub-mkimage has counted the sectors behind the first.
  if (get(core_image, kFirstList + 8, 2) != sectors - 1 || get(core_image, kSecondList + 8, 2) != 0)
    throw base::error("core.img has no list of its own blocks: it is not GRUB's for BIOS");
  std::string core(core_image);
  core.resize(sectors * kSector);
  put(core, kFirstList, core_sector + 1, 8);
  return core;
}

}  // namespace image
