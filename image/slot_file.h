#pragma once
#include <string>

#include "image/slot_state.h"

namespace image {

/// Throws as parse_slot_state() does, with the file's name.
SlotState read_slot_state(const std::string& path);

/// One write of the one sector over the file's own, put on disk and read back: after a power cut it is the
/// state before or this one. The file has to be there, with kSectorSize bytes: it is neither made nor grown
/// here, as FAT could not do that atomically.
void write_slot_state(const std::string& path, const SlotState& state);

}  // namespace image
