#pragma once
#include <cstdint>
#include <string>

#include "base/context.h"
#include "image/build.h"
#include "image/definition.h"
#include "image/disk.h"
#include "image/manifest.h"

/// The parts of an image directory that start a root, and the disk that all of them are on.
namespace image {

/// boot.cfg, for this root, and loader/.
void make_boot_parts(base::Context& context, const Definition& definition, const Root& root,
                     const std::string& directory);

/// disk.img, of the parts that are in `directory`. Returns how it is laid out.
DiskLayout make_disk_part(base::Context& context, const Definition& definition, int64_t clock,
                          const BuildOptions& options, const std::string& directory);

}  // namespace image
