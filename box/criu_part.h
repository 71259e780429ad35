#pragma once
#include <sys/types.h>
#include <unistd.h>

#include <span>

#include "base/fd.h"

namespace box {

/// The shared library that box/preload becomes; the build makes the source of this.
std::span<const unsigned char> criu_part_library();

/// Our part of CRIU's process: it keeps pages from CRIU that stay where they are (LazyMemory), and packs a
/// tmpfs without tar. A CRIU that does not load it does all of that itself, and takes longer.
class CriuPart {
 public:
  CriuPart();
  /// For the CRIU that this process, a child of the one that made this, starts next.
  void use() const;

 private:
  const pid_t owner_ = ::getpid();
  base::Fd library_;
};

}  // namespace box
