// What another node says of a box's network. Whatever it says, it is refused with an Error or means the same
// when it is written again.

#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "base/error.h"
#include "box/net_state.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const auto state = box::NetState::parse({reinterpret_cast<const char*>(data), size});
    if (box::NetState::parse(state.render()) != state) std::abort();
  } catch (const base::Error&) {
    // Refused: what it was for.
  }
  return 0;
}
