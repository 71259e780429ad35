#include "bootstrap/health.h"

#include <gtest/gtest.h>

#include "base/fd.h"
#include "base/mount.h"
#include "tests/unit/base/samples.h"

namespace bootstrap {
namespace {

std::string refused(const std::string& text) {
  return base::thrown([&] { parse_checks(text, "health.json"); });
}

std::vector<CheckResult> results_of(const std::string& text) {
  base::ProcessRunner runner;
  return run_checks(runner, parse_checks(text, "health.json"));
}

TEST(Health, ACheckIsACommandThatEndsWithZero) {
  auto results = results_of(R"([
    {"name": "good", "command": ["true"], "seconds": 5},
    {"name": "bad", "command": ["sh", "-c", "echo one >&2; echo two >&2; exit 3"], "seconds": 5},
    {"name": "slow", "command": ["sleep", "60"], "seconds": 1},
    {"name": "none", "command": ["/no/such/program"], "seconds": 1}])");
  ASSERT_EQ(results.size(), 4u);
  EXPECT_TRUE(results[0].good);
  EXPECT_FALSE(results[1].good);
  EXPECT_EQ(results[1].said, "sh ended with 3: one");
  EXPECT_FALSE(results[2].good);
  EXPECT_EQ(results[2].said, "sleep did not end within 1 s");
  EXPECT_FALSE(results[3].good);
  EXPECT_TRUE(results[3].said.starts_with("cannot run /no/such/program")) << results[3].said;
}

TEST(Health, SaysWhatIsWrongInTheFile) {
  EXPECT_EQ(refused("{}"), "error: health.json: expected a JSON array of checks\n");
  EXPECT_EQ(refused("[1]"), "error: health.json: check 1: expected an object\n");
  EXPECT_EQ(refused(R"([{"name": "a", "command": ["x"], "seconds": 0}])"),
            "error: health.json: check 1: seconds: expected a whole number from 1 to 600\n");
  EXPECT_EQ(refused(R"([{"name": "a", "command": ["x"]}])"),
            "error: health.json: check 1: seconds: expected a whole number from 1 to 600\n");
  EXPECT_EQ(refused(R"([{"command": ["x"], "seconds": 1}])"),
            "error: health.json: check 1: name: expected a text that is not empty\n");
  for (std::string command : {"[]", "[\"\"]", "\"x\"", "[1]", "[\"x\\u0000\"]"})
    EXPECT_TRUE(refused(R"([{"name": "a", "seconds": 1, "command": )" + command + "}]")
                    .contains("command: expected a list"))
        << command;
  EXPECT_TRUE(
      refused(R"([{"name": "a", "command": ["x"], "seconds": 1, "when": 1}])").contains("unknown key when"));
}

TEST(Health, ABrokenFileIsNotHealthyAndAMissingOneIs) {
  base::ProcessRunner runner;
  auto dir = base::TempDir::make("/tmp", "drover-health-");
  EXPECT_TRUE(check_health(runner, dir.path() + "/none").empty());
  base::write_file(dir.path() + "/health.json", "[");
  auto results = check_health(runner, dir.path() + "/health.json");
  ASSERT_EQ(results.size(), 1u);
  EXPECT_FALSE(results[0].good);
}

}  // namespace
}  // namespace bootstrap
