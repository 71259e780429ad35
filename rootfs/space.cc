#include "rootfs/space.h"

#include <sys/statvfs.h>

#include <algorithm>
#include <cerrno>

namespace rootfs {
namespace {

constexpr uint64_t kAlmostFull = 16 << 20;

/// The kernel's words, or GNU tar's (1.35) for a write that was cut short.
bool says_no_space(const std::string& message) {
  return message.contains("No space left on device") || message.contains(": Wrote only ");
}

bool almost_full(const std::string& path) {
  struct statvfs status;
  return ::statvfs(path.c_str(), &status) == 0 && status.f_bavail * status.f_frsize < kAlmostFull;
}

}  // namespace

base::Error explained(const base::Error& error, const std::string& name, const std::vector<Place>& places) {
  if (error.err() != ENOSPC && !says_no_space(error.message())) return error;
  // What was half has been removed by now, so there may be room again.
  auto full = std::ranges::find_if(places, [&](const Place& place) {
    return error.message().contains(place.directory + "/") || almost_full(place.directory);
  });
  if (full != places.end())
    return base::error("no space left to build {} in {}", name, full->directory).hint(full->hint);
  return base::error("no space left to build {}", name)
      .hint("a build works in memory: about 1 GiB has to be free");
}

}  // namespace rootfs
