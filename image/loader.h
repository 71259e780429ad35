#pragma once
#include <string>

#include "base/context.h"

/// The loader directory of an image: what a disk needs to start on BIOS and on UEFI, whichever slot it
/// chooses.
namespace image {

/// Makes `directory` with
///
///     grub.cfg        loader_config()
///     BOOTX64.EFI     GRUB for UEFI: looks for /drover/grub.cfg on the ESP that it was started from
///     boot.img        GRUB's boot sector for BIOS, as GRUB ships it
///     core.img        GRUB for BIOS: looks for /drover/grub.cfg on partition 2 of the disk it was started
///     from ipxe.efi        iPXE for UEFI and BIOS: the rescue, when no slot boots ipxe.lkrn
///
/// out of Debian's packages grub-common, grub-pc-bin, grub-efi-amd64-bin and ipxe: the same packages give the
/// same bytes. Throws with the package's name when one of them is not installed.
void make_loader(base::Context& context, const std::string& directory);

}  // namespace image
