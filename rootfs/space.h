#pragma once
#include <string>
#include <vector>

#include "base/error.h"

namespace rootfs {

/// A directory that a build writes to, and what to do when its file system is full.
struct Place {
  std::string directory, hint;
};

/// A step of the build of `name` has failed with `error`. When the reason is that there was no space, as
/// another program or the kernel said it: one sentence with the place (the first that it names or that is
/// almost full) and the way out. Else `error`.
base::Error explained(const base::Error& error, const std::string& name, const std::vector<Place>& places);

}  // namespace rootfs
