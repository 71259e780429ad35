// Frames, as another node might send them: first as control messages, then as a zstd stream.

#include <nlohmann/json.hpp>
#include <sys/socket.h>

#include <cstdint>
#include <thread>

#include "base/error.h"
#include "base/fd.h"
#include "migrate/stream.h"

namespace {

/// Calls `read` with a Wire on which exactly this input arrives.
template <class Read>
void with_input(const uint8_t* data, size_t size, Read read) {
  int pair[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0) throw base::sys_error("socketpair");
  base::Fd near(pair[0]), far(pair[1]);
  std::jthread sender([&] {
    (void)!::send(near.get(), data, size, MSG_NOSIGNAL);
    near.close();
  });
  try {
    migrate::Wire wire(far.get(), far.get());
    read(wire);
  } catch (const base::Error&) {
    // Refused: what it was for.
  }
  far.close();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace std::chrono_literals;
  with_input(data, size, [](migrate::Wire& wire) {
    while (true) wire.expect_json(migrate::Frame::kHello, 10s);
  });
  with_input(data, size, [](migrate::Wire& wire) {
    migrate::ZstdSource source(wire, 10s);
    std::byte small[3], large[300'000];
    while (true) {
      source.read_exact(small);
      source.read_exact(large);
    }
  });
  return 0;
}
