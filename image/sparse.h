#pragma once
#include <cstdint>
#include <functional>
#include <string>

namespace image {

constexpr uint64_t kMiB = 1 << 20;

/// Makes the file, or makes it anew, with so many bytes that are all holes.
void make_sparse(const std::string& path, uint64_t bytes);

/// Copies a whole file into `disk` from byte `start` on, where only holes are: blocks of zeros stay holes.
/// `done` is told how many bytes of the file have been dealt with.
void copy_sparse(const std::string& file, const std::string& disk, uint64_t start,
                 const std::function<void(uint64_t)>& done = {});

/// Writes over what stands there.
void write_at(const std::string& disk, uint64_t start, std::string_view bytes);

}  // namespace image
