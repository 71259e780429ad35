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

#include "base/fd.h"

namespace migrate {
namespace {

using namespace std::chrono_literals;

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
  static std::chrono::nanoseconds waited(const std::string& directory) {
    const auto start = std::chrono::steady_clock::now();
    wait_for_requests({::getpid()}, directory);
    return std::chrono::steady_clock::now() - start;
  }

  aio_context_t context_ = 0;
  std::vector<base::Fd> timers_;
  /// On no disk: nobody knows whether that works.
  const std::string nowhere_ = "/proc";
};

TEST(Requests, WhoMakesNoneIsNotWaitedFor) {
  const auto start = std::chrono::steady_clock::now();
  wait_for_requests({::getpid(), 0x7fffffff}, "/proc");
  EXPECT_LT(std::chrono::steady_clock::now() - start, 150ms);
}

TEST_F(RequestsTest, AreWaitedForUntilNoneHasEndedForAWhile) {
  for (const auto time : {50ms, 150ms, 250ms, 400ms}) ends_after(time);
  EXPECT_GE(waited(nowhere_), 400ms);
}

TEST_F(RequestsTest, NoneUnderWay) { EXPECT_GE(waited(nowhere_), 100ms); }

TEST_F(RequestsTest, AreNotWaitedForForEver) {
  for (int k = 1; k < 400; ++k) ends_after(k * 10ms);
  const auto time = waited(nowhere_);
  EXPECT_GE(time, 900ms);
  EXPECT_LT(time, 3s);
}

TEST_F(RequestsTest, WhereTheDiskIsIdleAShortTimeIsEnough) {
  struct stat is{};
  ASSERT_EQ(::stat("/var/tmp", &is), 0);
  if (!base::exists(std::format("/sys/dev/block/{}:{}", major(is.st_dev), minor(is.st_dev)))) {
    EXPECT_GE(waited("/var/tmp"), 100ms) << "no disk of its own";
    return;
  }
  // Others may use it: one time of many it has nothing to do.
  std::chrono::nanoseconds shortest = 10s;
  for (int turn = 0; turn < 20 && shortest >= 150ms; ++turn)
    shortest = std::min(shortest, waited("/var/tmp"));
  EXPECT_LT(shortest, 150ms);
  EXPECT_GE(shortest, 10ms);
}

}  // namespace
}  // namespace migrate
