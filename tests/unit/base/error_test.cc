#include "base/error.h"

#include <gtest/gtest.h>

namespace base {
namespace {

TEST(Error, MessageEndsWithTheTextOfErrno) {
  errno = ENOENT;
  Error e = sys_error("cannot open {}", "/x");
  EXPECT_STREQ(e.what(), "cannot open /x: No such file or directory");
  EXPECT_EQ(e.err(), ENOENT);
}

TEST(Error, RendersContextsFromTheInsideOutAndTheHintLast) {
  Error e = error("no space on {}", "nas1")
                .context("copying layer 2 of 3")
                .hint("free some space")
                .exit(Exit::kRolledBack);
  e.context("moving box web1");
  EXPECT_EQ(e.render(),
            "error: no space on nas1\n"
            "  while copying layer 2 of 3\n"
            "  while moving box web1\n"
            "hint: free some space\n");
  EXPECT_EQ(e.exit(), Exit::kRolledBack);
}

TEST(Error, RendersNothingThatIsNotThere) {
  Error e("it broke");
  EXPECT_EQ(e.render(), "error: it broke\n");
  EXPECT_EQ(e.exit(), Exit::kFailed);
}

TEST(InContext, AddsToAnErrorAndPassesAResultThrough) {
  EXPECT_EQ(in_context("counting", [] { return 3; }), 3);
  try {
    in_context("starting box web1", [] { throw error("no"); });
    FAIL() << "the Error was swallowed";
  } catch (const Error& e) {
    EXPECT_EQ(e.contexts(), std::vector<std::string>{"starting box web1"});
  }
}

}  // namespace
}  // namespace base
