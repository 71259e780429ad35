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

/// Looks into disk.img from outside (image/guestfs.h), and holds it against the other parts: a verdict for
/// each of disk_looks(), named "disk.img: root A", and none when the image has no disk.img. `parts` is what
/// verify_parts() has said. When a part that the disk is made of is not good, or the appliance does not
/// start, every verdict says that it was not looked at, and why.
std::vector<Verdict> verify_disk(base::Context& context, const std::string& directory,
                                 const Manifest& manifest, const std::vector<Verdict>& parts,
                                 const std::string& cache_dir);

}  // namespace image
