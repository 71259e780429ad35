#pragma once
#include <span>
#include <string>
#include <string_view>
#include <vector>

/// Which drivers a host image keeps. Names are the kernel's modules, written with underscores as lsmod does
/// (a file's name may have a hyphen there: the kernel takes both for the same). What a module stands on, and
/// what firmware it asks for, follows from the kernel's own tables (modules.dep, modinfo -F firmware).
///
/// A kernel may have a module built in, or not at all: so a family is there when one of its modules is.
namespace image {

/// One kind of hardware, as a definition names it.
struct Family {
  std::string_view name;
  std::string_view what;  ///< one sentence (docs/formats/image-definition.md)
  bool early;  ///< a node may need it to reach its root, from disk or network: it is in the initrd too
  std::vector<std::string_view> modules;
};

/// All that there are, which is what "all" means: sorted by kind, storage first.
std::span<const Family> hardware_families();
/// Null where there is no such family.
const Family* find_family(std::string_view name);

/// What the initrd needs whatever the hardware is: it opens the root and the data partition with them.
std::span<const std::string_view> initrd_modules();
/// What a node needs besides, whatever the hardware is: for boxes, their network and its limits, for moving
/// them (CRIU), for NAS, and the watchdog that is there without hardware.
std::span<const std::string_view> node_modules();

}  // namespace image
