// Manifests and signatures, as a hostile store or node might give them. What is read is written and read
// again to the same.

#include <cstdint>
#include <cstdlib>
#include <string>

#include "base/error.h"
#include "base/sign.h"
#include "templates/manifest.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    templates::Manifest manifest = templates::Manifest::parse(text);
    if (!templates::valid_name(manifest.name) || templates::Manifest::parse(manifest.render()) != manifest)
      std::abort();
  } catch (const base::Error&) {
    // Refused: what it was for.
  }
  try {
    base::Keys("/nonexistent").verify("message", text, "it");
    std::abort();  // nobody is trusted there
  } catch (const base::Error&) {
  }
  return 0;
}
