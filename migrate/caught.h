#pragma once
#include <span>
#include <vector>

#include "box/frames.h"
#include "migrate/wire.h"

namespace migrate {

/// The payload of a kCaught frame: what clients sent to a box while it was frozen
/// (docs/formats/move-wire.md).
std::vector<std::byte> encode_caught(std::span<const box::CaughtFrame> frames);
/// Throws what is out of bounds. Whether a frame is for the box is left to play_frames.
std::vector<box::CaughtFrame> parse_caught(const Message& message);

}  // namespace migrate
