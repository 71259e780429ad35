#include "migrate/noise.h"

#include <nlohmann/json.hpp>
#include <sys/random.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <span>
#include <vector>

#include "base/error.h"
#include "migrate/report.h"

namespace migrate {
namespace {

using namespace std::chrono_literals;

constexpr uint64_t kPiece = 256 << 10, kMost = 64 << 20;
constexpr uint64_t kMoreEachTime = 4;
constexpr double kLongestMs = 1000;
// The destination throws them away as they come.
constexpr auto kPatience = 1min;

std::vector<std::byte> random_bytes(size_t size) {
  std::vector<std::byte> bytes(size);
  for (size_t done = 0; done < size;) {
    const ssize_t got = ::getrandom(bytes.data() + done, size - done, 0);
    if (got < 0 && errno != EINTR) throw base::sys_error("cannot read random bytes");
    if (got > 0) done += static_cast<size_t>(got);
  }
  return bytes;
}

}  // namespace

Sent send_noise(Wire& wire, uint64_t most) {
  const auto noise = random_bytes(kPiece);
  most = std::clamp(most, kPiece, kMost);
  Sent best;
  // The first ones are slower on a long way: TCP has yet to learn how much it carries.
  for (uint64_t bytes = kPiece;; bytes = std::min(bytes * kMoreEachTime, most)) {
    Sent sent = {.bytes = bytes, .wire_bytes = bytes};
    const auto start = std::chrono::steady_clock::now();
    for (uint64_t done = 0; done < bytes; done += kPiece)
      wire.send(Frame::kNoise, std::span(noise).first(std::min(kPiece, bytes - done)));
    wire.send(Frame::kDataEnd);
    wire.expect_json(Frame::kRoundDone, kPatience);
    sent.ms = ms_since(start);
    if (sent.bandwidth() > best.bandwidth()) best = sent;
    if (bytes == most || sent.ms * kMoreEachTime > kLongestMs) return best;
  }
}

}  // namespace migrate
