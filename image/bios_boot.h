#pragma once
#include <cstdint>
#include <string>
#include <string_view>

/// What GRUB's own installer for BIOS (grub-bios-setup) writes into boot.img and core.img, so that the first
/// finds the second: pure functions, that need neither a kernel nor a disk. The places are those of
/// GRUB 2.12's include/grub/i386/pc/boot.h.
namespace image {

constexpr size_t kBootCodeBytes = 440;  ///< of a protective MBR (UEFI 2.10, 5.2.3)

/// The boot code of the MBR, of boot.img, which loads core.img from sector `core_sector` on.
std::string boot_code(std::string_view boot_image, uint64_t core_sector);

/// core.img in whole sectors, with its block list, as it stands from sector `core_sector` on.
std::string core_at(std::string_view core_image, uint64_t core_sector);

}  // namespace image
