#include "migrate/noise.h"

#include <sys/random.h>
#include <unistd.h>

#include <algorithm>

#include "base/error.h"
#include "migrate/pages.h"

namespace migrate {
namespace {

constexpr uint64_t kRun = kMostPages * kPageSize;
constexpr uint64_t kFirst = 1 << 20, kMost = 64 << 20;
// What takes less may be the way there and back, and what lies in buffers.
constexpr double kTellingMs = 200;
constexpr uint64_t kMoreEachTime = 4;

}  // namespace

Noise::Noise() : bytes_(kRun + kPageSize) {
  for (size_t done = 0; done < bytes_.size();) {
    const ssize_t got = ::getrandom(bytes_.data() + done, bytes_.size() - done, 0);
    if (got < 0 && errno != EINTR) throw base::sys_error("cannot read random bytes");
    if (got > 0) done += static_cast<size_t>(got);
  }
  const auto address = reinterpret_cast<uint64_t>(bytes_.data());
  const uint64_t begin = (address + kPageSize - 1) / kPageSize * kPageSize;
  run_ = {kPid, begin, begin + kRun};
}

std::map<pid_t, pid_t> Noise::processes() const { return {{static_cast<pid_t>(kPid), ::getpid()}}; }

Sent Noise::measure(uint64_t most, const std::function<Sent(DirtyMemory::Written noise)>& send) const {
  most = std::clamp(most, kFirst, kMost);
  for (uint64_t bytes = kFirst;; bytes = std::min(bytes * kMoreEachTime, most)) {
    // The same again and again: each run is packed by itself.
    const Sent sent = send({.runs = std::vector(bytes / kRun, run_), .renewed = {kPid}, .unknown = {}});
    if (sent.ms >= kTellingMs || bytes >= most) return sent;
  }
}

}  // namespace migrate
