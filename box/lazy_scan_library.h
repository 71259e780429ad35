#pragma once
#include <span>

namespace box {

/// The shared library that box/preload/lazy_scan.cc becomes; the build makes the source of this.
std::span<const unsigned char> lazy_scan_library();

}  // namespace box
