#include "image/appliance_guard.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <filesystem>
#include <thread>

#include "base/child.h"
#include "base/context.h"
#include "base/error.h"
#include "base/mount.h"

namespace image {
namespace {

using std::chrono::seconds;
using Why = ApplianceGuard::Why;

constexpr int kKilled = 128 + SIGKILL;

base::Child sleeper(const std::string& program = "sleep") {
  return base::Child::start({program, "60"}, -1, -1, -1);
}

TEST(ApplianceGuard, KillsWhatTakesTooLong) {
  base::Child before = sleeper();
  ApplianceGuard guard;
  base::Child child = sleeper();
  guard.begin({.all = seconds(0)});
  EXPECT_EQ(child.wait(seconds(20)), kKilled);
  // libguestfs may start another one before it gives up.
  base::Child next = sleeper();
  EXPECT_EQ(next.wait(seconds(20)), kKilled);
  EXPECT_EQ(guard.end(), Why::kTooLong);
  EXPECT_EQ(before.wait(std::chrono::milliseconds(0)), std::nullopt);
}

TEST(ApplianceGuard, KillsNothingBetweenCallsAndInTime) {
  ApplianceGuard guard;
  base::Child child = sleeper();
  guard.begin({.all = seconds(1)});
  guard.end();
  EXPECT_EQ(child.wait(seconds(2)), std::nullopt);
  guard.begin({.all = seconds(60), .boot = seconds(0)});  // there is no QEMU
  EXPECT_EQ(child.wait(seconds(1)), std::nullopt);
  EXPECT_EQ(guard.end(), Why::kNothing);
}

TEST(ApplianceGuard, CountsFromTheStartOfAMachine) {
  base::TempDir directory = base::TempDir::make("/tmp", "guard-test-");
  std::string machine = directory.path() + "/qemu-system-test";
  std::filesystem::create_symlink("/usr/bin/sleep", machine);
  ApplianceGuard guard;
  guard.begin({.all = seconds(60), .boot = seconds(0)});
  base::Child child = sleeper(machine);
  EXPECT_EQ(child.wait(seconds(20)), kKilled);
  EXPECT_EQ(guard.end(), Why::kTooLong);
}

TEST(ApplianceGuard, KillsWhenWeAreAskedToStop) {
  base::install_interrupt_handler();
  ApplianceGuard guard;
  base::Child child = sleeper();
  guard.begin({.all = seconds(60)});
  ::kill(::getpid(), SIGINT);
  EXPECT_EQ(child.wait(seconds(20)), kKilled);
  EXPECT_EQ(guard.end(), Why::kInterrupted);
  EXPECT_THROW(base::check_interrupt(), base::Error);
}

}  // namespace
}  // namespace image
