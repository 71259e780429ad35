#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "image/slot_state.h"

namespace bootstrap {

/// What the loader tells a slot about itself (boot.cfg of the image), or iPXE a root that came with the
/// initrd (boot.ipxe). Nothing else of the kernel's command line is ours.
struct KernelLine {
  std::optional<image::Slot> slot;  ///< drover.slot=a|b; nullopt: drover.network
  std::string root_hash;            ///< drover.root=: of the slot's verity tree, 64 hexadecimal digits
  uint64_t hash_offset = 0;         ///< drover.hash-offset=: where the tree begins, bytes; a multiple of 4096
};

/// Of /proc/cmdline's text. Of a word that stands there twice, the last counts, as in the kernel. What is
/// missing or makes no sense is an Error that names the word.
KernelLine parse_kernel_line(std::string_view line);

/// Whether this system was started by drover's loader at all: /proc/cmdline has drover.slot=.
bool booted_from_slot(std::string_view line);
/// Whether it came over the network, with its root in memory: /proc/cmdline has the word drover.network.
bool booted_from_network(std::string_view line);

}  // namespace bootstrap
