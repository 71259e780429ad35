// Manifests of images, as a hostile boot server or disk might give them. What is read is written and read
// again to the same, has no name that leads out of its directory, and means a disk that can be.

#include <cstdint>
#include <cstdlib>
#include <string>

#include "base/error.h"
#include "image/disk.h"
#include "image/manifest.h"
#include "image/sbom.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    image::Manifest manifest = image::Manifest::parse(text);
    if (image::Manifest::parse(manifest.render()) != manifest) std::abort();
    for (const image::Part& part : manifest.parts)
      if (part.name.empty() || part.name.starts_with('/') || part.name.contains("..")) std::abort();
    if (manifest.kernel_version.contains('/') || manifest.root.data_bytes > manifest.slot_bytes) std::abort();
    image::PartitionTable table = image::plan_partitions(manifest.layout());
    if (table.partitions.back().start < manifest.slot_bytes) std::abort();
    (void)image::render_sbom(manifest);
  } catch (const base::Error&) {
    // Refused: what it was for.
  }
  return 0;
}
