#include "migrate/level.h"

#include <algorithm>

namespace migrate {
namespace {

using namespace std::chrono_literals;

// A decision needs that much: the buffers between us and the link fill and drain in bursts.
constexpr auto kWindow = 50ms;
constexpr uint64_t kWindowBytes = 256 << 10;
// Of its time. With less waiting a higher level would send less, and later; with packing below that, neither
// limits.
constexpr double kWaits = 0.25, kFlows = 0.05, kPacks = 0.5;
// What does not shrink below this at kFirst, will not at a higher level.
constexpr double kShrinks = 0.95;
constexpr int kMostNeeded = 16;

double share(std::chrono::nanoseconds part, std::chrono::nanoseconds whole) {
  return static_cast<double>(part.count()) / static_cast<double>(whole.count());
}

}  // namespace

void Level::sent(const Spent& spent) {
  window_.in += spent.in;
  window_.out += spent.out;
  window_.packing += spent.packing;
  window_.waiting += spent.waiting;
  window_.all += spent.all;
  busy_.store(busy_.load() + spent.all - spent.waiting);
  if (window_.all < kWindow || window_.in < kWindowBytes) return;
  const double waits = share(window_.waiting, window_.all), packs = share(window_.packing, window_.all);
  const bool shrinks = static_cast<double>(window_.out) < kShrinks * static_cast<double>(window_.in);
  window_ = {};
  if (level_ > kFirst && !shrinks)
    level_ = kFirst;
  else if (waits > kWaits && (level_ < kFirst || shrinks))
    step(1);
  else if (waits < kFlows && packs > kPacks)
    step(-1);
  else
    direction_ = wanted_ = 0;
}

void Level::step(int direction) {
  wanted_ = direction == direction_ ? wanted_ + 1 : 1;
  direction_ = direction;
  if (wanted_ < needed_) return;
  wanted_ = 0;
  const int next = std::clamp(level_ + direction, kLeast, kMost);
  if (next == level_) return;
  // Between two levels of which one is too much and one too little: each change costs the window of a stream.
  if (last_ != 0) needed_ = direction == last_ ? 1 : std::min(2 * needed_, kMostNeeded);
  last_ = direction;
  level_ = next == 0 ? next + direction : next;  // 0 is zstd's word for its default
}

}  // namespace migrate
