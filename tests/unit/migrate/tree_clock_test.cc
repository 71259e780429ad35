// The wall clock of a node may be set while a box moves. What a scan concludes from ctimes must not depend on
// it.

#include <fcntl.h>
#include <gtest/gtest.h>

#include "base/fd.h"
#include "base/mount.h"
#include "migrate/tree_scan.h"

namespace migrate {
namespace {

using namespace std::chrono_literals;

/// The clocks as they stood when it was made, and what an operator or NTP has set the wall clock by.
class SetClock : public base::Clock {
 public:
  std::chrono::steady_clock::time_point now() override { return now_; }
  std::chrono::system_clock::time_point wall() override { return wall_ + by; }
  std::chrono::system_clock::duration by{};

 private:
  std::chrono::steady_clock::time_point now_ = base::Clock::now();
  std::chrono::system_clock::time_point wall_ = base::Clock::wall();
};

class TreeClock : public testing::Test {
 protected:
  TreeClock() {
    for (const char* name : {"a", "b", "c"}) base::write_file(directory_.path() + "/" + name, "text");
  }

  /// How many of the three files, old ones, are to be sent again when the clock is set by `by` during the
  /// scan.
  uint64_t dirty_when_set(std::chrono::system_clock::duration by) {
    clock_.by = 1h;  // as if they were an hour old
    const ScanStart start(clock_);
    TreeSnapshot snapshot = scan_tree(root_.get(), false, [] {});
    clock_.by += by;
    return start.mark_dirty(snapshot);
  }

  base::TempDir directory_ = base::TempDir::make("/tmp", "drover-test-");
  base::Fd root_ = base::open(directory_.path(), O_RDONLY | O_DIRECTORY);
  SetClock clock_;
};

TEST_F(TreeClock, OldFilesAreNotSentAgain) { EXPECT_EQ(dirty_when_set(0ms), 0U); }

TEST_F(TreeClock, AllFilesAreSentAgainWhenTheClockWasSet) {
  for (std::chrono::system_clock::duration by : {-525600min, -60min, -30min, 60min, 525600min})
    EXPECT_EQ(dirty_when_set(by), 3U) << by;
  EXPECT_EQ(dirty_when_set(-6ms), 3U);
  EXPECT_EQ(dirty_when_set(6ms), 3U);
}

TEST_F(TreeClock, SlewingDoesNothing) { EXPECT_EQ(dirty_when_set(1ms), 0U); }

// Set back before the scan: every file is from the future, and may have been written at this very moment.
TEST_F(TreeClock, FilesFromTheFutureAreSentAgain) {
  clock_.by = -1h;
  const ScanStart start(clock_);
  TreeSnapshot snapshot = scan_tree(root_.get(), false, [] {});
  EXPECT_EQ(start.mark_dirty(snapshot), 3U);
}

}  // namespace
}  // namespace migrate
