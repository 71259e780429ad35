#include "migrate/level.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <ranges>
#include <vector>

namespace migrate {
namespace {

using namespace std::chrono_literals;
using Seconds = std::chrono::duration<double>;

/// Blocks that are packed and go over a link which carries one while the next one is packed. How fast zstd is
/// and how small it makes them, is about that of zstd 1.5 for text on one processor.
class Link {
 public:
  explicit Link(double mbit) { set(mbit); }
  void set(double mbit) { bytes_per_second_ = mbit * 1e6 / 8; }

  Level::Spent block(int level, double reading = 0) {
    constexpr double kBytes = 256 << 10;
    const double speed = level < 1 ? 5e8 - level * 1.2e8 : 5e8 / std::pow(1.38, level - 1);
    const double ratio = shrinks ? level < 1 ? 0.45 - level * 0.05 : 0.42 - 0.012 * level : 1.0;
    const double packing = kBytes / speed;
    queue_ = std::max(0.0, queue_ - (packing + reading) * bytes_per_second_) + kBytes * ratio;
    const double waiting = std::max(0.0, queue_ - kBuffer) / bytes_per_second_;
    queue_ = std::min(queue_, kBuffer);
    return {
        .in = static_cast<uint64_t>(kBytes),
        .out = static_cast<uint64_t>(kBytes * ratio),
        .packing = std::chrono::duration_cast<std::chrono::nanoseconds>(Seconds(packing)),
        .waiting = std::chrono::duration_cast<std::chrono::nanoseconds>(Seconds(waiting)),
        .all = std::chrono::duration_cast<std::chrono::nanoseconds>(Seconds(packing + waiting + reading))};
  }
  /// Sends so many blocks; returns the levels at which it did.
  std::vector<int> send(Level& level, int blocks, double reading = 0) {
    std::vector<int> levels;
    for (int i = 0; i < blocks; ++i) {
      levels.push_back(level.now());
      level.sent(block(level.now(), reading));
    }
    return levels;
  }
  bool shrinks = true;

 private:
  static constexpr double kBuffer = 2 << 20;  // a channel of SSH takes that much before it stalls
  double bytes_per_second_ = 0, queue_ = 0;
};

auto changes(const std::vector<int>& levels) {
  return std::ranges::count_if(std::views::iota(size_t{1}, levels.size()),
                               [&](size_t i) { return levels[i] != levels[i - 1]; });
}

TEST(Level, AFastLink) {
  Link link(100'000);
  Level level;
  EXPECT_EQ(Level::kFirst, level.now());
  link.send(level, 2000);
  EXPECT_EQ(Level::kLeast, level.now());
}

TEST(Level, ASlowLink) {
  Link link(10);
  Level level;
  const auto levels = link.send(level, 100);
  EXPECT_EQ(Level::kMost, level.now());
  // Soon: at 10 Mbit/s a block takes 90 ms. What the buffers swallow at first says nothing.
  EXPECT_LT(std::ranges::find(levels, Level::kMost) - levels.begin(), 40);
}

TEST(Level, NeverZero) {  // which is zstd's word for 3
  Level level;
  Link fast(100'000), slow(10);
  auto levels = fast.send(level, 2000);
  std::ranges::copy(slow.send(level, 100), std::back_inserter(levels));
  EXPECT_FALSE(std::ranges::contains(levels, 0));
  EXPECT_TRUE(std::ranges::contains(levels, -1));
}

/// Between the two it comes to rest where packing and link take about as long, and does not swing.
TEST(Level, ALinkInBetween) {
  Link link(600);
  Level level;
  link.send(level, 20'000);
  const auto levels = link.send(level, 20'000);
  const auto [least, most] = std::ranges::minmax(levels);
  EXPECT_GT(least, Level::kFirst);
  EXPECT_LT(most, Level::kMost);
  EXPECT_LE(most - least, 1);
  EXPECT_LE(changes(levels), 20'000 / 16);
}

TEST(Level, ALinkThatBecomesSlowAndFastAgain) {
  Link link(100'000);
  Level level;
  link.send(level, 2000);
  link.set(10);
  link.send(level, 200);
  EXPECT_EQ(Level::kMost, level.now());
  link.set(100'000);
  link.send(level, 5000);
  EXPECT_EQ(Level::kLeast, level.now());
}

/// However slow the link: it is of no use to work on what does not become smaller.
TEST(Level, WhatDoesNotShrink) {
  Link link(10);
  link.shrinks = false;
  Level level;
  link.send(level, 200);
  EXPECT_EQ(Level::kFirst, level.now());
  link.shrinks = true;
  link.send(level, 200);
  EXPECT_EQ(Level::kMost, level.now());
  link.shrinks = false;
  link.send(level, 200);
  EXPECT_EQ(Level::kFirst, level.now());
}

/// A slow disk limits, and neither level nor link do.
TEST(Level, WhatIsReadSlowly) {
  Link link(100'000);
  Level level;
  link.send(level, 2000, 0.01);
  EXPECT_EQ(Level::kFirst, level.now());
}

/// Single small sends say nothing: such as pages that a box waits for.
TEST(Level, AFewBytes) {
  Level level;
  for (int i = 0; i < 50; ++i)
    level.sent({.in = 4096, .out = 1000, .packing = 10us, .waiting = 10ms, .all = 11ms});
  EXPECT_EQ(Level::kFirst, level.now());
}

}  // namespace
}  // namespace migrate
