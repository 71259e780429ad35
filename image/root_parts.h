#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "base/context.h"
#include "image/definition.h"
#include "image/manifest.h"
#include "image/plan.h"
#include "rootfs/apt.h"
#include "rootfs/workspace.h"

namespace image {

/// What the root is made of.
struct RootSource {
  const Definition& definition;
  const Plan& plan;  ///< its packages are in apt's cache
  std::string version;
  int64_t clock = 0;
  std::string cache_dir;
  std::string no_space_hint;  ///< what to do where there is no room for the parts
};

/// What its manifest says of them.
struct RootParts {
  std::string kernel_version;
  std::vector<Package> packages;
  Root root;
};

/// Makes what comes out of one tree of packages, in `directory`: vmlinuz and the initrd before it is
/// stripped, then contents.json and root.img. Throws when something that stays in the root misses something
/// that does not.
RootParts make_root_parts(base::Context& context, const rootfs::Apt& apt, const RootSource& source,
                          const rootfs::Workspace& workspace, const std::string& directory);

}  // namespace image
