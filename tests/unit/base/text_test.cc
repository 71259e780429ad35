#include "base/text.h"

#include <gtest/gtest.h>

namespace base {
namespace {

TEST(Printable, LeavesNothingThatSteersATerminal) {
  EXPECT_EQ(" [31mred  [0m", printable("\x1b[31mred\n\x7f[0m"));
  EXPECT_EQ("  31m", printable("\u009b31m"));  // a whole escape sequence's beginning in one character
  EXPECT_EQ("    ", printable("\u0080\u009f"));
}

TEST(Printable, LeavesText) {
  EXPECT_EQ("größer, €5, \u00a0", printable("größer, €5, \u00a0"));
  EXPECT_EQ("\xc2", printable("\xc2"));
  EXPECT_EQ("\xc3\x9b", printable("\xc3\x9b"));  // Û, whose second byte is that of a control character
}

}  // namespace
}  // namespace base
