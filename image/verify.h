#pragma once
#include <string>
#include <vector>

#include "base/context.h"
#include "image/manifest.h"
#include "image/verdict.h"

namespace image {

/// Holds an image directory against its manifest, `manifest` being what read_image() has of it: a verdict for
/// each part (there, its size, its SHA-256), for the root hash (by veritysetup, and what the hash area says
/// of itself), and for each file that the manifest does not name. Nothing is changed; each part is read once,
/// and the root twice.
std::vector<Verdict> verify_parts(base::Context& context, const std::string& directory,
                                  const Manifest& manifest);

}  // namespace image
