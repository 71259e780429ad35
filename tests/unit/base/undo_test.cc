#include "base/undo.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace base {
namespace {

TEST(Undo, RunsTheInversesLastFirst) {
  std::string order;
  {
    Undo undo;
    undo.add("first", [&] { order += "1"; });
    undo.add("second", [&] { order += "2"; });
    EXPECT_EQ(order, "");
  }
  EXPECT_EQ(order, "21");
}

TEST(Undo, CommitKeepsWhatWasDone) {
  bool undone = false;
  {
    Undo undo;
    undo.add("a step", [&] { undone = true; });
    undo.commit();
  }
  EXPECT_FALSE(undone);
}

TEST(Undo, AnInverseThatFailsIsToldAndTheRestStillRuns) {
  bool undone = false;
  Undo undo;
  undo.add("detach loop3", [&] { undone = true; });
  undo.add("unmount /x", [] { throw error("it is busy"); });
  testing::internal::CaptureStderr();
  EXPECT_FALSE(undo.roll_back());
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "warning: cannot undo: unmount /x: it is busy\n");
  EXPECT_TRUE(undone);
  EXPECT_TRUE(undo.roll_back()) << "an inverse ran twice";
}

}  // namespace
}  // namespace base
