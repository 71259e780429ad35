#pragma once
#include <string>
#include <string_view>

#include "image/gpt.h"

/// sgdisk(8) of gdisk 1.0.10, in one command each: libguestfs's own calls run it for each field, and wait for
/// udev each time (16 calls to read a table of five partitions: 106 s without KVM on a busy machine).
namespace image {

/// What makes the table on an empty disk; the device's name is to follow. Names may have letters, digits and
/// '-'.
std::string sgdisk_writing(const PartitionTable& table);

/// What prints a table of so many partitions, after it has checked it.
std::string sgdisk_printing(size_t partitions);

/// What that has printed. Throws when sgdisk has found a problem, or has said what is not understood.
PartitionTable parse_sgdisk(std::string_view said);

}  // namespace image
