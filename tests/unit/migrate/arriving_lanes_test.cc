#include "migrate/arriving_lanes.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <poll.h>
#include <sys/socket.h>

#include <optional>

#include "base/error.h"
#include "migrate/guard.h"
#include "migrate/local_socket.h"
#include "tests/unit/migrate/tree_tools.h"

namespace migrate {
namespace {

using namespace std::chrono_literals;

/// A lane as the source sees it, and the process in between.
struct FarEnd {
  explicit FarEnd(const std::string& dir) : helper(connect_in(dir, kLanesSocket)) {
    int pair[2];
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0) throw base::sys_error("socketpair");
    socket = base::Fd(pair[0]);
    const base::Fd other(pair[1]);
    send_descriptor(helper.get(), other.get());
    send_descriptor(helper.get(), other.get());
    wire.emplace(socket.get(), socket.get());
  }
  void send(const PageRun& run, char content) {
    std::vector<std::byte> frame;
    for (int i = 0; i < 4; ++i) frame.push_back(std::byte(run.pid >> (8 * i)));
    for (int i = 0; i < 8; ++i) frame.push_back(std::byte(run.address >> (8 * i)));
    for (int i = 0; i < 4; ++i) frame.push_back(std::byte(run.pages >> (8 * i)));
    BlockPacker().pack(std::vector<std::byte>(run.bytes(), std::byte(content)), 1, frame);
    wire->send(Frame::kPages, frame);
  }
  void begin(int number) { wire->send_json(Frame::kRound, {{"number", number}}); }
  void end() {
    wire->send(Frame::kDataEnd);
    wire->expect_json(Frame::kRoundDone, 10s);
  }
  std::string said() {
    return error_of([&] {
      for (;;) wire->recv(10s);
    });
  }
  base::Fd helper, socket;
  std::optional<Wire> wire;
};

class ArrivingLanesTest : public testing::Test {
 protected:
  std::unique_ptr<FarEnd> join() {
    auto lane = std::make_unique<FarEnd>(directory_.path());
    lanes_.accept();
    lane->wire->expect_json(Frame::kReady, 10s);
    return lane;
  }
  void begin() {
    lanes_.begin_round([] {});
  }
  /// The first byte of what is kept of a page; 0: nothing is.
  char kept(uint64_t address) {
    if (!kept_.first_in(7, address, address + kPageSize)) return 0;
    return static_cast<char>(kept_.read({7, address, 1}).data.front());
  }
  /// Until a lane has said something to the pager's thread.
  void hear() {
    pollfd waited{lanes_.arrivals(), POLLIN, 0};
    ASSERT_EQ(1, ::poll(&waited, 1, 10'000));
  }
  std::string take() {
    std::string came;
    lanes_.take([&](const Pages& pages) { came += static_cast<char>(pages.data.front()); });
    return came;
  }

  base::TempDir directory_ = base::TempDir::make("/var/tmp", "drover-unit-");
  Store kept_;
  ArrivingLanes lanes_{directory_.path(), kept_};
};

TEST_F(ArrivingLanesTest, RoundsAreKept) {
  const auto one = join(), other = join();
  begin();
  one->begin(1);
  other->begin(1);
  one->send({7, 0x1000, 1}, 'a');
  other->send({7, 0x2000, 64}, 'b');
  one->end();
  other->end();
  begin();
  one->begin(2);
  one->send({7, 0x2000, 1}, 'c');
  one->end();
  EXPECT_EQ('a', kept(0x1000));
  EXPECT_EQ('c', kept(0x2000));
  EXPECT_EQ('b', kept(0x3000));
}

/// What is void in a round is dropped before anything of it is kept, whichever connection is faster.
TEST_F(ArrivingLanesTest, ALaneWaitsForItsRound) {
  const auto lane = join();
  begin();
  lane->begin(2);
  lane->send({7, 0x1000, 1}, 'n');
  lane->wire->send(Frame::kDataEnd);
  std::this_thread::sleep_for(50ms);
  EXPECT_EQ(0, kept(0x1000));
  lanes_.begin_round([&] { kept_.drop(7); });
  lane->wire->expect_json(Frame::kRoundDone, 10s);
  EXPECT_EQ('n', kept(0x1000));
}

/// The source has taken it for lost, and has sent its pages another way.
TEST_F(ArrivingLanesTest, WhatComesLateDoesNoHarm) {
  const auto lane = join();
  begin();
  lane->begin(1);
  lane->send({7, 0x1000, 1}, 'o');
  std::this_thread::sleep_for(50ms);  // mostly it is kept by now
  begin();
  kept_.put({{7, 0x1000, 1}, std::vector<std::byte>(kPageSize, std::byte('n'))});
  lane->send({7, 0x1000, 1}, 'o');
  const std::string said = lane->said();
  EXPECT_TRUE(said.starts_with("the other node failed: the other node sent ")) << said;
  EXPECT_EQ('n', kept(0x1000));
  hear();
  EXPECT_EQ("", take());
}

TEST_F(ArrivingLanesTest, RoundsThatAreNotDue) {
  auto said = [this](int number) {
    const auto lane = join();
    lane->begin(number);
    return lane->said();
  };
  begin();
  begin();
  const auto refusal = [](int number) {
    return std::format(
        "the other node failed: the other node sent a part of round {} of memory, which is not due", number);
  };
  EXPECT_EQ(refusal(0), said(0));
  EXPECT_EQ(refusal(1), said(1));
  begin();
  lanes_.end_rounds();
  EXPECT_EQ(refusal(3), said(3));
}

TEST_F(ArrivingLanesTest, WhatIsAskedForComes) {
  const auto lane = join();
  lanes_.end_rounds();
  Asked* asked = lanes_.room(1 << 20);
  ASSERT_TRUE(asked);
  asked->want(7, 0x1000, 0x1000 + 64 * kPageSize, false);
  EXPECT_EQ(nullptr, lanes_.room(64 * kPageSize));
  EXPECT_EQ(64 * kPageSize, lanes_.asked_bytes());
  lanes_.send_wants();
  const auto runs = parse_runs(lane->wire->recv(10s));
  ASSERT_EQ(1U, runs.size());
  lane->send(runs[0], 'x');
  hear();
  EXPECT_EQ("x", take());
  EXPECT_EQ(0U, lanes_.asked_bytes());
  lane->send(runs[0], 'x');  // once more
  hear();
  EXPECT_EQ("", take());
  EXPECT_EQ("the other node failed: the other node sent memory that was not asked for", lane->said());
}

TEST_F(ArrivingLanesTest, ALaneIsLostWithWhatWasAskedFor) {
  auto lane = join();
  lanes_.end_rounds();
  lanes_.room(1 << 20)->want(7, 0x1000, 0x2000, false);
  lanes_.send_wants();
  lane->wire->recv(10s);
  lane.reset();
  hear();
  EXPECT_EQ("", take());
  EXPECT_EQ(0U, lanes_.asked_bytes());
  EXPECT_EQ(nullptr, lanes_.room(1 << 20));
}

TEST_F(ArrivingLanesTest, TheProcessInBetweenEnds) {
  const auto lane = join();
  lane->helper.close();
  EXPECT_EQ("the other node failed: the process that had the connection has ended", lane->said());
}

TEST_F(ArrivingLanesTest, ClosedWithWhatIsOnItsWay) {
  const auto lane = join(), other = join();
  begin();
  lane->begin(2);  // waits for it
  other->begin(1);
  const auto start = std::chrono::steady_clock::now();
  lanes_.close();
  EXPECT_LT(std::chrono::steady_clock::now() - start, 5s);
  EXPECT_EQ("the other node closed the connection while we waited for its next message", lane->said());
}

TEST_F(ArrivingLanesTest, NotWithoutBound) {
  std::vector<std::unique_ptr<FarEnd>> lanes;
  for (unsigned i = 0; i + 1 < 16; ++i) lanes.push_back(join());
  const FarEnd one_more(directory_.path());
  lanes_.accept();
  char none = 0;
  EXPECT_LE(::recv(one_more.helper.get(), &none, 1, 0), 0);  // closed
}

}  // namespace
}  // namespace migrate
