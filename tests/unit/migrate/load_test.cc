#include "migrate/load.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <thread>

namespace migrate {
namespace {

using namespace std::chrono_literals;

TEST(Load, WhenAnotherLanePays) {
  EXPECT_TRUE(another_lane_pays({.packing = 0.98, .cipher = 0.4, .idle = 6}));
  EXPECT_TRUE(another_lane_pays({.packing = 0.4, .cipher = 1.0, .idle = 1}));
  EXPECT_FALSE(another_lane_pays({.packing = 0.98, .cipher = 0.98, .idle = 0.3}));  // nobody would run it
  EXPECT_FALSE(another_lane_pays({.packing = 0.2, .cipher = 0.3, .idle = 6}));      // the link limits
  EXPECT_FALSE(another_lane_pays({.packing = 0, .cipher = 0, .idle = 6}));
}

TEST(Load, OfAProcessThatWorks) {
  LoadMeter meter;
  EXPECT_FALSE(meter.look(0s, ::getpid()));
  EXPECT_FALSE(meter.look(0s, ::getpid()));  // too soon
  const auto until = std::chrono::steady_clock::now() + 600ms;
  while (std::chrono::steady_clock::now() < until) {
  }
  const auto load = meter.look(300ms, ::getpid());
  ASSERT_TRUE(load);
  EXPECT_GT(load->packing, 0);
  EXPECT_LT(load->packing, 0.55);
  EXPECT_GT(load->cipher, 0);
  EXPECT_LT(load->cipher, 1.5);
  EXPECT_GE(load->idle, 0);
  EXPECT_LE(load->idle, std::thread::hardware_concurrency());
}

TEST(Load, OfAProcessThatHasEnded) {
  LoadMeter meter;
  EXPECT_FALSE(meter.look(0s, -1));
  std::this_thread::sleep_for(550ms);
  const auto load = meter.look(0s, -1);
  ASSERT_TRUE(load);
  EXPECT_EQ(0, load->cipher);
}

}  // namespace
}  // namespace migrate
