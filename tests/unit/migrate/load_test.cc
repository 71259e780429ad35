#include "migrate/load.h"

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <string>
#include <thread>

#include "base/fd.h"

namespace migrate {
namespace {

using namespace std::chrono_literals;

TEST(Load, WhenAnotherLanePays) {
  EXPECT_TRUE(another_lane_pays({.packing = 0.98, .cipher = 0.4, .idle = 6}));
  EXPECT_TRUE(another_lane_pays({.packing = 0.4, .cipher = 1.0, .idle = 1}));
  EXPECT_FALSE(another_lane_pays({.packing = 0.98, .cipher = 0.98, .idle = 0.3}));  // nobody would run it
  EXPECT_FALSE(another_lane_pays({.packing = 0.2, .cipher = 0.3, .idle = 6}));      // the link limits
  EXPECT_FALSE(another_lane_pays({.packing = 0, .cipher = 0, .idle = 6}));
  // ssh has sent its 2 MiB, and waits for the other side's word.
  EXPECT_TRUE(another_lane_pays({.packing = 0.1, .cipher = 0.1, .idle = 0.6, .on_the_way = 1.9e6}));
  EXPECT_FALSE(another_lane_pays({.packing = 0.1, .cipher = 0.1, .idle = 0.6, .on_the_way = 0.9e6}));
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

TEST(Load, OfAProcessWithAConnection) {
  const base::Fd listening(::socket(AF_INET, SOCK_STREAM, 0)), to(::socket(AF_INET, SOCK_STREAM, 0));
  sockaddr_in here{
      .sin_family = AF_INET, .sin_port = 0, .sin_addr = {htonl(INADDR_LOOPBACK)}, .sin_zero = {}};
  socklen_t size = sizeof here;
  ASSERT_EQ(::bind(listening.get(), reinterpret_cast<sockaddr*>(&here), size), 0);
  ASSERT_EQ(::listen(listening.get(), 1), 0);
  ASSERT_EQ(::getsockname(listening.get(), reinterpret_cast<sockaddr*>(&here), &size), 0);
  ASSERT_EQ(::connect(to.get(), reinterpret_cast<sockaddr*>(&here), size), 0);
  const base::Fd from(::accept(listening.get(), nullptr, nullptr));
  LoadMeter meter;
  EXPECT_FALSE(meter.look(0s, ::getpid()));
  std::string data(1 << 16, 'x');
  for (int i = 0; i < 60; ++i) {
    base::write_full(to.get(), data, "a connection");
    ASSERT_EQ(::recv(from.get(), data.data(), data.size(), MSG_WAITALL), static_cast<ssize_t>(data.size()));
    std::this_thread::sleep_for(10ms);
  }
  const auto load = meter.look(0s, ::getpid());
  ASSERT_TRUE(load);
  EXPECT_GT(load->on_the_way, 0);
  EXPECT_LT(load->on_the_way, 1 << 20);
}

TEST(Load, OfAProcessThatHasEnded) {
  LoadMeter meter;
  EXPECT_FALSE(meter.look(0s, -1));
  std::this_thread::sleep_for(550ms);
  const auto load = meter.look(0s, -1);
  ASSERT_TRUE(load);
  EXPECT_EQ(0, load->cipher);
  EXPECT_EQ(0, load->on_the_way);
}

}  // namespace
}  // namespace migrate
