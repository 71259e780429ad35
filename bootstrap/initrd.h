#pragma once
#include <string>

namespace bootstrap {

/// Where things are in the initrd, and where it makes the root. /init of the initrd is drover-init, which
/// finds here what it needs by these names and nothing else.
struct InitrdPaths {
  std::string modules = "/lib/drover-modules";  ///< the list; may be absent (all drivers are in the kernel)
  std::string module_directory =
      "/lib/modules";                      ///< what is below it for this kernel's release, for short paths
  std::string network_root = "/root.img";  ///< where iPXE puts the root, when there is no slot
  std::string root = "/sysroot";
};

/// As process 1 of the initrd: from the kernel's file systems to the start of `drover-node bootstrap start`
/// in the slot's root, or in the one that came with the initrd, which goes on from there. Does not return;
/// throws with a sentence for the console.
void run_initrd();

/// Moves the mounts of the kernel's file systems from here into `root`, removes what is in the initrd, and
/// makes `root` the root.
void switch_root(const std::string& root);

}  // namespace bootstrap
