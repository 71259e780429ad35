#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "base/child.h"

namespace bootstrap {

/// A command that has to end with 0 on a healthy node (/etc/drover/health.json, docs/formats/health.md).
struct Check {
  std::string name;
  std::vector<std::string> command;
  unsigned seconds = 0;
};
struct CheckResult {
  std::string name;
  bool good = false;
  std::string said;  ///< why it is not
};

constexpr std::string_view kHealthFile = "/etc/drover/health.json";

/// `file` is its name in messages.
std::vector<Check> parse_checks(std::string_view text, const std::string& file);
/// Of a file; a missing one has none.
std::vector<Check> read_checks(const std::string& file);

/// One after another, in this order. Never throws for a check: what cannot be run is not good.
std::vector<CheckResult> run_checks(base::Runner& runner, const std::vector<Check>& checks);

/// All checks of `file`; where it cannot be understood, one result that says so.
std::vector<CheckResult> check_health(base::Runner& runner, const std::string& file);

}  // namespace bootstrap
