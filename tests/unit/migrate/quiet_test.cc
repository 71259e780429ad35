#include "migrate/quiet.h"

#include <gtest/gtest.h>
#include <linux/aio_abi.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <format>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/fd.h"

namespace migrate {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

/// A context of io_setup(2) in this process, with requests that end when a clock says so.
class RequestsTest : public testing::Test {
 protected:
  void SetUp() override { ASSERT_EQ(::syscall(SYS_io_setup, 1024, &context_), 0); }
  void TearDown() override { ::syscall(SYS_io_destroy, context_); }

  void ends_after(std::chrono::milliseconds time) {
    timers_.emplace_back(::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC));
    const itimerspec at = {{}, {time / 1s, std::chrono::nanoseconds(time % 1s).count()}};
    ASSERT_EQ(::timerfd_settime(timers_.back().get(), 0, &at, nullptr), 0);
    iocb request{};
    request.aio_lio_opcode = IOCB_CMD_POLL;
    request.aio_fildes = static_cast<unsigned>(timers_.back().get());
    request.aio_buf = POLLIN;
    iocb* list[] = {&request};
    ASSERT_EQ(::syscall(SYS_io_submit, context_, 1, list), 1);
  }
  std::chrono::nanoseconds waited(const std::string& directory) const {
    wait_for_requests({::getpid()}, directory);
    return Clock::now() - began_;
  }

  const Clock::time_point began_ = Clock::now();
  aio_context_t context_ = 0;
  std::vector<base::Fd> timers_;
  /// On no disk: nobody knows whether that works.
  const std::string nowhere_ = "/proc";
};

TEST(Requests, WhoMakesNoneIsNotWaitedFor) {
  const auto start = Clock::now();
  wait_for_requests({::getpid(), 0x7fffffff}, "/proc");
  EXPECT_LT(Clock::now() - start, 400ms);
}

TEST_F(RequestsTest, AreWaitedForUntilNoneHasEndedForAWhile) {
  for (const auto time : {50ms, 350ms, 650ms, 900ms}) ends_after(time);
  EXPECT_GE(waited(nowhere_), 900ms);
}

TEST_F(RequestsTest, NoneUnderWay) { EXPECT_GE(waited(nowhere_), 400ms); }

TEST_F(RequestsTest, AreNotWaitedForForEver) {
  for (int k = 1; k < 600; ++k) ends_after(k * 10ms);
  try {
    waited(nowhere_);
    FAIL();
  } catch (const base::Error& e) {
    EXPECT_TRUE(e.message().contains("go on ending for 2 s")) << e.message();
  }
  const auto time = Clock::now() - began_;
  EXPECT_GE(time, 1900ms);
  EXPECT_LT(time, 5s);
}

TEST_F(RequestsTest, WhereTheDiskIsIdleAShortTimeIsEnough) {
  struct stat is{};
  ASSERT_EQ(::stat("/var/tmp", &is), 0);
  if (!base::exists(std::format("/sys/dev/block/{}:{}", major(is.st_dev), minor(is.st_dev)))) {
    EXPECT_GE(waited("/var/tmp"), 400ms) << "no disk of its own";
    return;
  }
  // Others may use it: one time of many it has nothing to do.
  std::chrono::nanoseconds shortest = 10s;
  for (int turn = 0; turn < 100 && shortest >= 400ms; ++turn) {
    const auto start = Clock::now();
    waited("/var/tmp");
    shortest = std::min<std::chrono::nanoseconds>(shortest, Clock::now() - start);
  }
  EXPECT_LT(shortest, 400ms);
  EXPECT_GE(shortest, 10ms);
}

TEST_F(RequestsTest, AreSeenBeforeTheFreeze) { EXPECT_TRUE(may_request(::getpid())); }
TEST(Requests, NoContextIsNone) { EXPECT_FALSE(may_request(::getpid())); }

}  // namespace
}  // namespace migrate
