#include "box/ownership.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/mount.h"

namespace box {
namespace {

class CommitTest : public testing::Test {
 protected:
  CommitTest() { paths_.dir = directory_.path(), paths_.journal = directory_.path() + "/move.journal"; }
  Move begin() { return begin_move(paths_, MoveStep::kLeaving, std::string(32, 'a'), "node2", {}, 1); }

  base::TempDir directory_ = base::TempDir::make("/tmp", "drover-unit-");
  Paths paths_;
  int committed_ = 0;
};

TEST_F(CommitTest, TheRecordIsThere) {
  Move move = begin();
  move.commit(paths_, MoveStep::kGiven, [&] { ++committed_; });
  EXPECT_EQ(committed_, 1);
  EXPECT_EQ(find_move(paths_)->step, MoveStep::kGiven);
}

/// As on a full disk: the write fails, and what was there stays.
TEST_F(CommitTest, ARecordThatIsNotWrittenTakesNothing) {
  Move move = begin();
  struct stat before{};
  ASSERT_EQ(::stat(paths_.journal.c_str(), &before), 0);
  const auto old_signal = ::signal(SIGXFSZ, SIG_IGN);
  rlimit old{};
  ::getrlimit(RLIMIT_FSIZE, &old);
  rlimit none{static_cast<rlim_t>(before.st_size), old.rlim_max};
  ::setrlimit(RLIMIT_FSIZE, &none);
  base::Exit exit = base::Exit::kDone;
  try {
    move.commit(paths_, MoveStep::kGiven, [&] { ++committed_; });
  } catch (const base::Error& e) {
    exit = e.exit();
  }
  ::setrlimit(RLIMIT_FSIZE, &old);
  ::signal(SIGXFSZ, old_signal);
  EXPECT_EQ(exit, base::Exit::kFailed);
  EXPECT_EQ(committed_, 0);
  EXPECT_EQ(find_move(paths_)->step, MoveStep::kLeaving);
}

/// The other node may have been told: so nothing is taken back.
TEST_F(CommitTest, ARecordThatMayBeThereCounts) {
  Move move = begin();
  base::write_file(paths_.journal, "damaged\nmore\n");
  try {
    move.commit(paths_, MoveStep::kGiven, [&] { ++committed_; });
    FAIL() << "it was committed";
  } catch (const base::Error& e) {
    EXPECT_EQ(e.exit(), base::Exit::kNeedsRecover);
    EXPECT_NE(e.hint().find("drover-node recover"), std::string::npos) << e.hint();
  }
  EXPECT_EQ(committed_, 1);
}

}  // namespace
}  // namespace box
