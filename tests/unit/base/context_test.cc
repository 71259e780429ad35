#include "base/context.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>

#include "base/error.h"
#include "base/undo.h"

namespace base {
namespace {

/// Asks its parent (us) to stop, then works on for `seconds`.
Command interrupting(const std::string& seconds) {
  return {.argv = {"sh", "-c", "kill -INT $PPID; sleep " + seconds + "; echo done"}};
}

class Interrupt : public testing::Test {
 protected:
  void SetUp() override { install_interrupt_handler(); }
};

TEST_F(Interrupt, IsThrownOnceForEachTime) {
  check_interrupt();
  ::raise(SIGTERM);
  try {
    check_interrupt();
    FAIL() << "nothing was thrown";
  } catch (const Error& e) {
    EXPECT_EQ(e.exit(), Exit::kInterrupted);
    EXPECT_EQ(e.message(), "interrupted");
  }
  check_interrupt();
  ::raise(SIGINT);
  EXPECT_THROW(check_interrupt(), Error);
}

TEST_F(Interrupt, EndsARunningCommand) {
  try {
    ProcessRunner().run(interrupting("1000"));
    FAIL() << "the command was not ended";
  } catch (const Error& e) {
    EXPECT_EQ(e.exit(), Exit::kInterrupted);
  }
  check_interrupt();
}

TEST_F(Interrupt, WaitsForWhatMustNotStopHalfWay) {
  {
    NoInterrupt uninterrupted;
    EXPECT_EQ(ProcessRunner().run(interrupting("0.3")).out, "done\n");
    check_interrupt();
  }
  EXPECT_THROW(check_interrupt(), Error);
}

TEST_F(Interrupt, WaitsForARollBack) {
  std::string out;
  {
    Undo undo;
    undo.add("a slow inverse", [&] { out = ProcessRunner().run(interrupting("0.3")).out; });
  }
  EXPECT_EQ(out, "done\n");
  EXPECT_THROW(check_interrupt(), Error);
}

TEST_F(Interrupt, CanBePolledFor) {
  pollfd polled = {.fd = interrupt_fd(), .events = POLLIN, .revents = 0};
  EXPECT_EQ(::poll(&polled, 1, 0), 0);
  ::raise(SIGINT);
  EXPECT_EQ(::poll(&polled, 1, 0), 1);
  EXPECT_THROW(check_interrupt(), Error);
  EXPECT_EQ(::poll(&polled, 1, 0), 0);
}

}  // namespace
}  // namespace base
