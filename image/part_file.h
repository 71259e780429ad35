#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "base/fd.h"
#include "base/hash.h"

namespace image {

/// A part of an image directory that somebody else filled: a regular file, through no symbolic link. Throws
/// "DIR has no NAME" when there is none.
base::Fd open_part(const std::string& directory, std::string_view name);

/// How many bytes a regular file or a block device has.
uint64_t size_of(int fd, std::string_view what);

/// Exactly so many bytes from `at` on; throws when there are fewer. `what` names the file in messages.
void read_exact(int fd, uint64_t at, std::span<std::byte> out, std::string_view what);

/// Reads `bytes` bytes from the beginning, piece by piece, and throws when there are fewer or when we are
/// asked to stop.
void read_pieces(int fd, uint64_t bytes, std::string_view what,
                 const std::function<void(std::span<const std::byte>)>& piece);

}  // namespace image
