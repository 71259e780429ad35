#pragma once
#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <optional>

namespace migrate {

/// What limits a connection that carries memory: shares of one processor, over the same time.
struct Load {
  double packing = 0;  ///< of its thread, for reading and packing
  double cipher = 0;   ///< of its ssh
  double idle = 0;     ///< processors of this node that have nothing to do
  /// Bytes that are between the nodes at any time for the way's length alone: its speed times its shortest
  /// round trip. What waits in queues, on a link that is full, is not in it.
  double on_the_way = 0;
};
/// Another connection would send more. Either something that there is one of in each works all the time, and
/// processors are idle. Or the way is so long that it takes up what ssh sends without an answer.
bool another_lane_pays(const Load& load);

/// Measures it, out of proc(5), and by tcp(7) of ssh's connection.
class LoadMeter {
 public:
  /// `packing`: how long that took so far (Level::busy). nullopt: the last look was just now.
  std::optional<Load> look(std::chrono::nanoseconds packing, pid_t ssh);

 private:
  struct Sums {
    std::chrono::steady_clock::time_point at;
    std::chrono::nanoseconds packing, cipher, idle;
    uint64_t answered;                         ///< bytes
    std::chrono::microseconds shortest_round;  ///< of late
  };
  std::optional<Sums> last_;
};

}  // namespace migrate
