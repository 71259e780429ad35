// Definitions, as a person might mistype them: read, or refused with an Error that names a line.

#include <cstdint>
#include <cstdlib>
#include <string>

#include "base/error.h"
#include "image/definition.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    image::Definition definition =
        image::parse_definition({reinterpret_cast<const char*>(data), size}, "x.toml", "/nonexistent");
    if (definition.name.empty() || definition.hardware.empty() || definition.hash.size() != 64) std::abort();
  } catch (const base::Error& error) {
    if (!error.message().starts_with("x.toml:")) std::abort();
  }
  return 0;
}
