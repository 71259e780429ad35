#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "base/context.h"

namespace image {

/// What an initrd is made of. Programs are taken from `root`, the unstripped tree, with all libraries that
/// they ask for.
struct InitrdParts {
  std::string root;                  ///< the unstripped tree that has the modules
  std::string init;                  ///< file of drover-init, on this machine: becomes /init
  std::string module_directory;      ///< in root: /usr/lib/modules/VERSION
  std::vector<std::string> modules;  ///< files in it, in load order (ModuleTables::files)
  /// Files and symlinks in root that these modules ask for: /usr/lib/firmware/… (firmware_files)
  std::vector<std::string> firmware;
};

/// Makes the initrd `file`: two cpio archives (newc,
/// Documentation/driver-api/early-userspace/buffer-format.rst of the kernel), each compressed with xz as the
/// kernel unpacks it (--check=crc32). The first has modules and firmware, the second /init: another drover
/// changes the second one only, and a delta is so much smaller. Modules and firmware are in it unpacked, so
/// that they are compressed together; the order of modules is in /lib/drover-modules. `work` is an empty
/// directory. The same parts give the same bytes.
void make_initrd(base::Context& context, const InitrdParts& parts, const std::string& work,
                 const std::string& file);

}  // namespace image
