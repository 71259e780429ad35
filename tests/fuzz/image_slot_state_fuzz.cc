// Sectors that might stand where a slot state should. What is read is exactly what would be written.

#include <cstdint>
#include <cstdlib>
#include <string>

#include "base/error.h"
#include "image/slot_state.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string_view sector(reinterpret_cast<const char*>(data), size);
  try {
    if (image::render(image::parse_slot_state(sector)) != sector) std::abort();
  } catch (const base::Error&) {
    // Refused: what it was for.
  }
  return 0;
}
