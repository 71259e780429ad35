#pragma once
#include <string>

namespace image {

/// grub.cfg of a node's disk, the same for BIOS and UEFI: chooses by the slot state beside it (boot() in
/// slot_state.h is what it does), counts the try, and hands over to $prefix/a/boot.cfg or $prefix/b/boot.cfg.
/// It says what it has chosen on the console and on the first serial line, and waits for no keyboard.
std::string loader_config();

}  // namespace image
