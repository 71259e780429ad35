#pragma once
#include <chrono>
#include <string>

#include "base/child.h"
#include "base/progress.h"

namespace base {

/// The clocks that the product looks at; tests put their own in place.
class Clock {
 public:
  virtual ~Clock() = default;
  virtual std::chrono::steady_clock::time_point now() { return std::chrono::steady_clock::now(); }
  virtual std::chrono::system_clock::time_point wall() { return std::chrono::system_clock::now(); }
};

/// What every operation needs of its surroundings; passed by reference, owned by main.
struct Context {
  Runner& runner;
  Progress& progress;
  Clock& clock;
  std::string state_dir = "/var/lib/drover";  ///< kept over reboots: boxes, layers, journals
  std::string run_dir = "/run/drover";        ///< gone after a reboot: mounts, locks
};

/// Throws when SIGINT or SIGTERM has asked us to stop (exit code 130). Operations call it
/// between steps; install_interrupt_handler is main's.
void install_interrupt_handler();
void check_interrupt();

}  // namespace base
