#pragma once
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/context.h"
#include "image/build.h"
#include "image/definition.h"
#include "image/manifest.h"
#include "rootfs/apt.h"

namespace image {

/// What a build is going to make an image of.
struct Plan {
  std::vector<Package> packages;              ///< Debian's, all of them, sorted by name
  std::vector<std::string> own_packages;      ///< .deb files that stand in for a package of that name
  std::map<std::string, std::string> inputs;  ///< as in a manifest: the same ones give the same parts
};

/// Where a definition's packages come from.
rootfs::Origin origin_of(const Definition& definition, bool offline);

/// Takes the packages from image.lock, or asks apt, and writes them down when the options say so. Fetches
/// package lists, and no package.
Plan make_plan(base::Context& context, rootfs::Apt& apt, const Definition& definition,
               const BuildOptions& options);

/// The image that has the name now; nullopt, and a note why, where it is not one that `keys` trust.
std::optional<Manifest> image_there(base::Context& context, const BuildOptions& options,
                                    const base::Keys& keys);

/// Nothing is to be built: the image has all its files, is made of what the plan says, and has the version
/// that is asked for.
bool is_current(const Manifest& there, const Definition& definition, const Plan& plan,
                const BuildOptions& options);

/// The one that is asked for; else that of the image that has the name now, where it is made of the same;
/// else the day of `clock`, that of the youngest package, and a count that goes on from that image's.
std::string next_version(const std::optional<Manifest>& there, const Definition& definition, const Plan& plan,
                         const BuildOptions& options, int64_t clock);

}  // namespace image
