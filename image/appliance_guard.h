#pragma once
#include <chrono>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>

#include "base/fd.h"

namespace image {

/// How long one call into libguestfs may take. It has no deadline itself, but for 20 minutes in a launch.
struct CallLimit {
  std::chrono::seconds all;
  /// From when a QEMU was first seen, as libguestfs may make its appliance anew before that.
  std::optional<std::chrono::seconds> boot = {};
};

/// Kills what libguestfs has started (QEMU, supermin), so that its call fails: when it takes too long, or
/// when we are asked to stop (base/context.h). One lives as long as the handle it watches. What it kills are
/// this process's children that were not there when it was made: nothing else may start any meanwhile.
class [[nodiscard]] ApplianceGuard {
 public:
  enum class Why { kNothing, kTooLong, kInterrupted };

  ApplianceGuard();
  ApplianceGuard(const ApplianceGuard&) = delete;
  ApplianceGuard& operator=(const ApplianceGuard&) = delete;
  ~ApplianceGuard();

  void begin(CallLimit limit);
  Why end();  ///< of the call; why it was cut off

 private:
  void watch();
  Why reason();
  void kill_children();

  const std::set<pid_t> before_;
  base::Fd wake_;
  std::mutex mutex_;  ///< of what stands below
  bool stop_ = false;
  std::optional<CallLimit> limit_;
  std::chrono::steady_clock::time_point began_;
  std::map<pid_t, std::chrono::steady_clock::time_point> machines_;  ///< when each QEMU was first seen
  Why why_ = Why::kNothing;
  std::thread thread_;
};

}  // namespace image
