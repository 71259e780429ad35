#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "base/child.h"
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

/// An initrd: two cpio archives (newc, Documentation/driver-api/early-userspace/buffer-format.rst of the
/// kernel), each compressed with xz as the kernel unpacks it (--check=crc32). The first has modules and
/// firmware, the second /init: another drover changes the second one only, and a delta is so much smaller.
/// Modules and firmware are in it unpacked, so that they are compressed together; the order of modules is in
/// /lib/drover-modules. The same parts give the same bytes.
class Initrd {
 public:
  /// Reads all parts. They are compressed from then on, by processes that end with this. `work` is an empty
  /// directory.
  Initrd(base::Context& context, const InitrdParts& parts, std::string work);
  /// Waits for that, and writes the initrd.
  void finish(const std::string& file);

 private:
  void begin(const std::string& archive);

  std::string work_;
  std::vector<base::Child> packing_;
};

}  // namespace image
