#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/context.h"
#include "image/definition.h"
#include "image/manifest.h"
#include "image/strip.h"
#include "rootfs/apt.h"

namespace image {

/// Makes an unstripped root in the empty directory `tree`: Debian's `packages`, all of them named, by
/// mmdebstrap; from CACHE/image/roots, when these were installed before. Then the local packages (.deb files)
/// on top.
void install_root(base::Context& context, const rootfs::Apt& apt, const std::vector<Package>& packages,
                  const std::vector<std::string>& local_packages, const std::string& suite, int64_t clock,
                  const std::string& cache_dir, const std::string& tree);

/// What dpkg knows of a root before it is stripped.
struct Installed {
  std::vector<Package> packages;
  std::map<std::string, std::string> owner;  ///< of each file: "package"
};
Installed installed_in(const std::string& tree);

/// Puts the definition's files, users and their keys, health checks, and what the image says of itself to its
/// node (/etc/drover) into the root.
void place_definition(const Definition& definition, const std::string& version, const std::string& tree);

/// The one version of a kernel that is installed there: /usr/lib/modules/VERSION, with its
/// /boot/vmlinuz-VERSION.
std::string kernel_version_of(const std::string& tree);

}  // namespace image
