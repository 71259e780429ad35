// Messages in binary, as another node might send them: what clients sent to the frozen box, memory that is
// named, memory. The first byte says which.

#include <cstdint>
#include <cstdlib>

#include "base/error.h"
#include "migrate/caught.h"
#include "migrate/pages.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const auto* bytes = reinterpret_cast<const std::byte*>(data);
  const migrate::Message message{.type = {}, .bytes = {bytes + 1, bytes + size}};
  try {
    switch (data[0]) {
      case 'c':
        if (migrate::encode_caught(migrate::parse_caught(message)) != message.bytes) ::abort();
        break;
      case 'r':
        for (const auto& run : migrate::parse_runs(message))
          if (run.pages == 0 || run.pages > migrate::kMostPages || run.address % migrate::kPageSize != 0)
            ::abort();
        break;
      default:
        if (const auto pages = migrate::parse_pages(message); pages.data.size() != pages.run.bytes())
          ::abort();
        break;
    }
  } catch (const base::Error&) {
    // Refused: what it was for.
  }
  return 0;
}
