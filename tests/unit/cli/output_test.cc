#include "cli/output.h"

#include <gtest/gtest.h>

namespace cli {
namespace {

TEST(Table, ColumnsAreAsWideAsTheirWidestCell) {
  EXPECT_EQ(table({"NAME", "STATE", "NOTE"}, {{"web1", "running", ""}, {"a-long-name", "off", "x y"}}),
            "NAME         STATE    NOTE\n"
            "web1         running\n"
            "a-long-name  off      x y\n");
  EXPECT_EQ(table({"NAME"}, {}), "NAME\n");
}

}  // namespace
}  // namespace cli
