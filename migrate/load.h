#pragma once
#include <sys/types.h>

#include <chrono>
#include <optional>

namespace migrate {

/// What limits a connection that carries memory: shares of one processor, over the same time.
struct Load {
  double packing = 0;  ///< of its thread, for reading and packing
  double cipher = 0;   ///< of its ssh
  double idle = 0;     ///< processors of this node that have nothing to do
};
/// Another connection would send more: something that there is one of in each works all the time, and
/// processors are idle.
bool another_lane_pays(const Load& load);

/// Measures it, out of proc(5).
class LoadMeter {
 public:
  /// `packing`: how long that took so far (Level::busy). nullopt: the last look was just now.
  std::optional<Load> look(std::chrono::nanoseconds packing, pid_t ssh);

 private:
  struct Sums {
    std::chrono::steady_clock::time_point at;
    std::chrono::nanoseconds packing, cipher, idle;
  };
  std::optional<Sums> last_;
};

}  // namespace migrate
