#pragma once
#include <atomic>
#include <chrono>
#include <cstdint>

namespace migrate {

/// The level at which zstd packs what goes over one connection. It follows what limits: where the connection
/// is waited for, it is worth more work to send less; where packing takes the time, less of it. Pure: it
/// computes with what it is told.
class Level {
 public:
  /// Below 1 are zstd's fast ones. At kMost a stream takes 17 MB of memory; one level above it, 29.
  static constexpr int kLeast = -5, kMost = 9, kFirst = 1;

  /// What it took to send something.
  struct Spent {
    uint64_t in = 0, out = 0;  ///< bytes before and after packing
    std::chrono::nanoseconds packing{0};
    std::chrono::nanoseconds waiting{0};  ///< until the connection took it
    std::chrono::nanoseconds all{0};      ///< with reading it, too
  };
  void sent(const Spent& spent);
  [[nodiscard]] int now() const { return level_; }
  /// What it took in all without the waiting. For any thread.
  [[nodiscard]] std::chrono::nanoseconds busy() const { return busy_; }

 private:
  void step(int direction);

  int level_ = kFirst;
  std::atomic<std::chrono::nanoseconds> busy_{};
  Spent window_;       ///< since the last decision
  int last_ = 0;       ///< direction of the last step
  int wanted_ = 0;     ///< so many windows in a row asked for the step that `direction_` says
  int direction_ = 0;  ///< of them
  int needed_ = 1;     ///< windows for a step: more where steps have led to and fro
};

}  // namespace migrate
