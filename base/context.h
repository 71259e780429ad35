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

/// SIGINT, SIGTERM and SIGHUP ask us to stop, once installed (by main). Nothing stops by itself: operations
/// call check_interrupt() between steps, and a Runner's wait ends its command.
void install_interrupt_handler();
/// Throws when we were asked to stop (exit code 130); once for each time we were asked.
void check_interrupt();
/// Readable when check_interrupt() would throw, for whoever polls; -1 when it never would.
int interrupt_fd();

/// While one lives check_interrupt() does not throw: for what must not stop half-way, such as
/// a roll-back or the steps after a commit point.
class [[nodiscard]] NoInterrupt {
 public:
  NoInterrupt();
  NoInterrupt(const NoInterrupt&) = delete;
  NoInterrupt& operator=(const NoInterrupt&) = delete;
  ~NoInterrupt();
};

}  // namespace base
