#pragma once
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "image/definition.h"

namespace image {

/// What one rule has taken out of a root.
struct Removed {
  uint64_t files = 0;
  uint64_t bytes = 0;
};

/// Takes out of `root` what the definition names, what no image has (package manager, caches, the builder's
/// traces), and, of the kernel's modules and firmware, what is not in `modules` and `firmware` (paths below
/// /usr/lib/modules/VERSION, patterns below /usr/lib/firmware). What matches `keep` stays, whatever else
/// says. By rule: "documentation", "drop /usr/share/x*", "modules", …
std::map<std::string, Removed> strip_root(const std::string& root, const Definition::Strip& strip,
                                          const std::string& kernel_version,
                                          const std::set<std::string>& modules,
                                          const std::set<std::string>& firmware);

/// The files that patterns below /usr/lib/firmware name (the kernel finds them with .xz or .zst behind, too),
/// and what those lead to that are symlinks: paths in `root`, from its /.
std::set<std::string> firmware_files(const std::string& root, const std::set<std::string>& firmware);

}  // namespace image
