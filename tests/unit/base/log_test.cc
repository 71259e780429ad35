#include "base/log.h"

#include <gtest/gtest.h>

namespace base {
namespace {

std::string logged(bool verbose, bool json) {
  testing::internal::CaptureStderr();
  set_verbose(verbose);
  set_log_json(json);
  debug("running: {}", "ls");
  warn("no space on \"{}\"", "nas1");
  set_verbose(false);
  set_log_json(false);
  return testing::internal::GetCapturedStderr();
}

TEST(Log, WarningsAlwaysAndTheRestWhenVerbose) {
  EXPECT_EQ(logged(false, false), "warning: no space on \"nas1\"\n");
  EXPECT_EQ(logged(true, false), "debug: running: ls\nwarning: no space on \"nas1\"\n");
}

TEST(Log, LinesThatAProgramCanRead) {
  EXPECT_EQ(logged(true, true), "{\"debug\":\"running: ls\"}\n{\"warning\":\"no space on \\\"nas1\\\"\"}\n");
}

}  // namespace
}  // namespace base
