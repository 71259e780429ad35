#pragma once
#include <optional>
#include <string>
#include <vector>

#include "base/context.h"
#include "image/definition.h"
#include "image/manifest.h"

namespace image {

enum class Backend { kDirect, kGuestfs };  ///< what composes the disk: our writers, or libguestfs

struct BuildOptions {
  std::string out;                        ///< the image directory
  std::string cache_dir;                  ///< packages, roots, initrds; may be emptied at any time
  std::string keys_dir;                   ///< of the signing key; the definition's `keys` win
  std::vector<std::string> package_dirs;  ///< where own packages (drover-node) are: NAME_VERSION_ARCH.deb
  std::optional<std::string> version;     ///< YYYYMMDDnn; else from the packages' date
  Backend backend = Backend::kDirect;
  std::string drover_version;  ///< for the manifest
  bool offline = false;        ///< use what is in the cache
  bool update_lock = false;    ///< write image.lock anew
  bool rebuild = false;        ///< build although nothing has changed
};

struct BuildResult {
  Manifest manifest;
  bool unchanged = false;  ///< it was there already
};

/// Makes the image directory `options.out` of a definition. Done, or what was there is still there: it is
/// made beside it and exchanged at the end; mounts and processes end with this process, half directories are
/// removed by the next build.
BuildResult build(base::Context& context, const Definition& definition, BuildOptions options);

}  // namespace image
