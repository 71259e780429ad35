#include "box/frames.h"

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <thread>

#include "base/error.h"
#include "box/firewall.h"
#include "box/netns.h"
#include "tests/unit/box/rack.h"

namespace {

using namespace rack;
using std::chrono::milliseconds;

constexpr const char* kMacA = "02:00:00:00:00:0a";
constexpr const char* kMacB = "02:00:00:00:00:0b";
constexpr unsigned kIp = 0x0800, kArp = 0x0806, kIp6 = 0x86dd;

TEST(Frames, AreForOneMac) {
  const box::Mac mac = box::Mac::parse(kMacA);
  const auto is_for = [&](const Bytes& frame) { return box::is_for(mac, std::as_bytes(std::span(frame))); };
  for (const unsigned type : {kIp, kArp, kIp6}) EXPECT_TRUE(is_for(ether(kMacA, kMacB, type, {})));
  EXPECT_TRUE(is_for(ether(kMacA, kMacB, kIp, Bytes(65'536))));
  EXPECT_FALSE(is_for(ether(kMacA, kMacB, kIp, Bytes(65'537))));
  EXPECT_FALSE(is_for(ether(kMacA, kMacB, 0x8100, Bytes(60)))) << "a VLAN tag";
  EXPECT_FALSE(is_for(ether(kMacB, kMacA, kIp, {})));
  EXPECT_FALSE(is_for(ether("ff:ff:ff:ff:ff:ff", kMacB, kArp, {})));
  EXPECT_FALSE(is_for(Bytes(13))) << "shorter than its header";
  EXPECT_FALSE(is_for({}));
}

/// Two boxes on a bridge; a's cable is shut, and what is on its way to it is caught.
class FramesTest : public Rack {
 protected:
  void SetUp() override {
    Rack::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    run({"ip", "link", "set", "lo", "up"});
    a_ = plug("a", kMacA, {"10.77.0.10/24"});
    b_ = plug("b", kMacB, {"10.77.0.11/24"});
    box::open_firewall(a_.host_end, a_.mac, a_.addresses);
    box::open_firewall(b_.host_end, b_.mac, b_.addresses);
    ASSERT_TRUE(pings(b_, "10.77.0.10"));  // and who has which address is known to the node and to b
    run({"ping", "-c1", "-W4", "10.77.0.10"});
    gate_.emplace(a_.host_end);
    catcher_.emplace(a_.mac);
    gate_->shut();
    ASSERT_TRUE(gate_->divert(a_.mac));
  }

  Bytes from_b(std::string_view to, std::string_view sender, std::string_view words) {
    return ether(to, kMacB, kIp, ipv4(sender, "10.77.0.10", 17, udp(9, 4000, text(words))));
  }
  /// A's cable opens again and what was caught goes in.
  size_t open_and_play() {
    gate_->open();
    return box::play_frames(a_.host_end, a_.mac, catcher_->take());
  }
  base::Fd socket_of_a(int kind) {
    base::Fd fd;
    box::in_netns(a_.netns.get(), [&] { fd = base::Fd(::socket(AF_INET, kind | SOCK_CLOEXEC, 0)); });
    return fd;
  }
  static sockaddr_in at(const char* address, uint16_t port) {
    sockaddr_in where = {};
    where.sin_family = AF_INET;
    where.sin_port = htons(port);
    inet_pton(AF_INET, address, &where.sin_addr);
    return where;
  }
  static bool readable(const base::Fd& fd, milliseconds timeout) {
    pollfd waited = {fd.get(), POLLIN, 0};
    return ::poll(&waited, 1, static_cast<int>(timeout.count())) == 1;
  }

  Host a_, b_;
  std::optional<box::Gate> gate_;
  std::optional<box::FrameCatcher> catcher_;
};

TEST_F(FramesTest, CatchesWhatTheBoxWouldGetAndNothingElse) {
  const Tap tap_b(b_.netns.get(), "eth0"), tap_a(a_.netns.get(), "eth0");
  tap_b.send(from_b(kMacA, "10.77.0.11", "first"));
  tap_b.send(from_b(kMacA, "10.77.0.99", "not from an address of b's"));
  tap_b.send(from_b("ff:ff:ff:ff:ff:ff", "10.77.0.11", "to all"));
  tap_b.send(from_b("02:00:00:00:00:cc", "10.77.0.11", "to one that the bridge does not know"));
  tap_b.send(from_b(kMacA, "10.77.0.11", "second"));
  EXPECT_FALSE(tap_a.next(milliseconds(100))) << "the cable is shut";

  const auto caught = catcher_->take();
  ASSERT_EQ(2u, caught.size());
  const auto as_bytes = [](const Bytes& frame) {
    const auto bytes = std::as_bytes(std::span(frame));
    return std::vector<std::byte>(bytes.begin(), bytes.end());
  };
  EXPECT_EQ(as_bytes(from_b(kMacA, "10.77.0.11", "first")), caught[0].bytes);
  EXPECT_EQ(as_bytes(from_b(kMacA, "10.77.0.11", "second")), caught[1].bytes);
  EXPECT_TRUE(catcher_->take().empty()) << "each is taken once";

  gate_->open();
  EXPECT_EQ(2u, box::play_frames(a_.host_end, a_.mac, caught));
  EXPECT_EQ(from_b(kMacA, "10.77.0.11", "first"), tap_a.next(milliseconds(2000)));
  EXPECT_EQ(from_b(kMacA, "10.77.0.11", "second"), tap_a.next(milliseconds(2000)));
}

TEST_F(FramesTest, AnOpenGateDivertsNothing) {
  gate_->open();
  EXPECT_TRUE(pings(b_, "10.77.0.10"));
  EXPECT_TRUE(catcher_->take().empty());
  gate_->shut();
  ASSERT_TRUE(gate_->divert(a_.mac));
  EXPECT_FALSE(pings(b_, "10.77.0.10", 1));
  EXPECT_FALSE(catcher_->take().empty());
  // As `recover` opens it, without knowing of it.
  box::open_firewall(a_.host_end, a_.mac, a_.addresses);
  EXPECT_TRUE(pings(b_, "10.77.0.10"));
  EXPECT_TRUE(catcher_->take().empty());
}

TEST_F(FramesTest, WhatTheBoxSendsStillGoesOut) {
  gate_->open();
  ASSERT_TRUE(gate_->divert(a_.mac));
  const Tap tap_b(b_.netns.get(), "eth0"), tap_a(a_.netns.get(), "eth0");
  const Bytes request = from_b(kMacA, "10.77.0.11", "a request");
  tap_b.send(request);
  const Bytes answer =
      ether(kMacB, kMacA, kIp, ipv4("10.77.0.10", "10.77.0.11", 17, udp(4000, 9, text("an answer"))));
  tap_a.send(answer);
  EXPECT_EQ(answer, tap_b.next(milliseconds(2000)));
  // What else there is, is what the kernel of b has to say of an answer to nobody.
  while (const auto seen = tap_a.next(milliseconds(100))) EXPECT_NE(request, *seen);
  EXPECT_EQ(1, std::ranges::count_if(catcher_->take(), [&](const box::CaughtFrame& caught) {
              return std::ranges::equal(caught.bytes, std::as_bytes(std::span(request)));
            }));
}

TEST_F(FramesTest, NothingToDivertWithoutRules) {
  box::remove_firewall(a_.host_end);
  EXPECT_FALSE(gate_->divert(a_.mac));
  gate_->shut();
  EXPECT_FALSE(gate_->divert(a_.mac)) << "shut, with nothing loaded";
}

TEST_F(FramesTest, RulesForWhatGoesInApply) {
  gate_->open();
  const Tap tap_a(a_.netns.get(), "eth0");
  const auto frame = [](const Bytes& bytes) {
    box::CaughtFrame made;
    for (const uint8_t byte : bytes) made.bytes.push_back(std::byte(byte));
    return made;
  };
  // Another MAC has a's address, says b: in vain.
  const std::vector<box::CaughtFrame> forged = {
      frame(ether(kMacA, kMacB, kArp, arp(2, kMacB, "10.77.0.10", kMacA, "10.77.0.10"))),
      frame(from_b(kMacB, "10.77.0.11", "for b")), frame(from_b(kMacA, "10.77.0.11", "fine"))};
  box::play_frames(a_.host_end, a_.mac, forged);
  EXPECT_EQ(from_b(kMacA, "10.77.0.11", "fine"), tap_a.next(milliseconds(2000)));
  while (const auto seen = tap_a.next(milliseconds(100)))
    for (const auto& one : forged)
      EXPECT_FALSE(std::ranges::equal(one.bytes, std::as_bytes(std::span(*seen)))) << "a forged one";
}

TEST_F(FramesTest, IsBounded) {
  const Tap tap_b(b_.netns.get(), "eth0");
  for (unsigned i = 0; i < 2 * box::kMostFrames; ++i)
    tap_b.send(from_b(kMacA, "10.77.0.11", std::to_string(i)));
  const auto caught = catcher_->take();
  EXPECT_EQ(box::kMostFrames, caught.size());
}

/// The kernel leaves the checksum of what the node itself sends to whoever puts it on a wire.
TEST_F(FramesTest, ADatagramWithoutItsChecksumArrives) {
  const base::Fd listens = socket_of_a(SOCK_DGRAM), sends(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  const sockaddr_in a = at("10.77.0.10", 4000);
  ASSERT_EQ(0, ::bind(listens.get(), reinterpret_cast<const sockaddr*>(&a), sizeof a));
  ASSERT_EQ(5, ::sendto(sends.get(), "hello", 5, 0, reinterpret_cast<const sockaddr*>(&a), sizeof a));
  EXPECT_FALSE(readable(listens, milliseconds(50)));
  EXPECT_EQ(1u, open_and_play());
  ASSERT_TRUE(readable(listens, milliseconds(2000)));
  char got[16];
  EXPECT_EQ(5, ::recv(listens.get(), got, sizeof got, 0));
  EXPECT_FALSE(readable(listens, milliseconds(50))) << "once";
}

/// And what TCP sends may be far larger than a frame on a wire.
TEST_F(FramesTest, LargeSegmentsArrive) {
  gate_->open();
  const base::Fd listens = socket_of_a(SOCK_STREAM), sends(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const sockaddr_in a = at("10.77.0.10", 4000);
  ASSERT_EQ(0, ::bind(listens.get(), reinterpret_cast<const sockaddr*>(&a), sizeof a));
  ASSERT_EQ(0, ::listen(listens.get(), 1));
  ASSERT_EQ(0, ::connect(sends.get(), reinterpret_cast<const sockaddr*>(&a), sizeof a));
  const base::Fd receives(::accept(listens.get(), nullptr, nullptr));
  ASSERT_TRUE(receives);

  gate_->shut();
  ASSERT_TRUE(gate_->divert(a_.mac));
  const std::string words(9000, 'w');
  ASSERT_EQ(9000, ::send(sends.get(), words.data(), words.size(), 0));
  const auto caught = catcher_->take();
  size_t largest = 0;
  for (const auto& frame : caught) largest = std::max(largest, frame.bytes.size());
  EXPECT_GT(largest, 1514u) << "no segment was larger than a frame: this tests nothing";
  gate_->open();
  EXPECT_EQ(caught.size(), box::play_frames(a_.host_end, a_.mac, caught));
  std::string got(9000, ' ');
  ASSERT_TRUE(readable(receives, milliseconds(2000)));
  ASSERT_EQ(9000, ::recv(receives.get(), got.data(), got.size(), MSG_WAITALL));
  EXPECT_EQ(words, got);
  tcp_info info = {};
  socklen_t size = sizeof info;
  ASSERT_EQ(0, ::getsockopt(sends.get(), IPPROTO_TCP, TCP_INFO, &info, &size));
  EXPECT_EQ(0u, info.tcpi_total_retrans) << "it was TCP that repaired it";
}

}  // namespace
