#pragma once
#include <string>

#include "image/manifest.h"

namespace image {

/// The package list of an image as SPDX 2.3 JSON (ISO/IEC 5962 with its amendments; the schema of spdx-spec
/// v2.3): the image, and one package for each of Debian's in it. Of the manifest it takes all but the parts,
/// as the list is itself one of them. The same manifest gives the same bytes.
std::string render_sbom(const Manifest& manifest);

}  // namespace image
