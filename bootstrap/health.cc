#include "bootstrap/health.h"

#include <nlohmann/json.hpp>

#include <chrono>

#include "base/error.h"
#include "base/fd.h"
#include "base/text.h"

namespace bootstrap {
namespace {

constexpr size_t kMostText = 1 << 20;
constexpr unsigned kMostSeconds = 600;

base::Error wrong(const std::string& file, size_t index, std::string_view key, std::string_view expected) {
  return base::error("{}: check {}: {}: expected {}", file, index + 1, key, expected);
}

Check parse_check(const nlohmann::json& in, const std::string& file, size_t index) {
  constexpr std::string_view kCommand = "a list of strings, the first of which is a program";
  Check check;
  if (!in.is_object()) throw base::error("{}: check {}: expected an object", file, index + 1);
  for (const auto& [key, value] : in.items()) {
    if (key == "name" && value.is_string() && !value.get_ref<const std::string&>().empty()) {
      check.name = value;
    } else if (key == "seconds" && value.is_number_unsigned() && value <= kMostSeconds && value > 0) {
      check.seconds = value;
    } else if (key == "command" && value.is_array()) {
      for (const auto& word : value) {
        if (!word.is_string() || word.get_ref<const std::string&>().contains('\0'))
          throw wrong(file, index, key, kCommand);
        check.command.push_back(word);
      }
    } else if (key == "name" || key == "seconds" || key == "command") {
      throw wrong(file, index, key,
                  key == "name"      ? "a text that is not empty"
                  : key == "seconds" ? std::format("a whole number from 1 to {}", kMostSeconds)
                                     : kCommand);
    } else {
      throw base::error("{}: check {}: unknown key {}", file, index + 1, key)
          .hint("known here are: name, command, seconds");
    }
  }
  if (check.name.empty()) throw wrong(file, index, "name", "a text that is not empty");
  if (check.command.empty() || check.command[0].empty()) throw wrong(file, index, "command", kCommand);
  if (check.seconds == 0)
    throw wrong(file, index, "seconds", std::format("a whole number from 1 to {}", kMostSeconds));
  return check;
}

CheckResult run_check(base::Runner& runner, const Check& check) {
  try {
    base::Result result =
        runner.run_any({.argv = check.command, .timeout = std::chrono::seconds(check.seconds)});
    if (result.status == 0) return {.name = check.name, .good = true, .said = {}};
    std::string said = base::first_line(result.err.empty() ? result.out : result.err);
    return {.name = check.name,
            .good = false,
            .said = std::format("{} ended with {}{}{}", check.command[0], result.status,
                                said.empty() ? "" : ": ", said)};
  } catch (const base::Error& error) {
    if (error.exit() == base::Exit::kInterrupted) throw;
    return {.name = check.name, .good = false, .said = base::first_line(error.message())};
  }
}

}  // namespace

std::vector<Check> parse_checks(std::string_view text, const std::string& file) {
  nlohmann::json document = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!document.is_array()) throw base::error("{}: expected a JSON array of checks", file);
  std::vector<Check> checks;
  for (size_t i = 0; i < document.size(); ++i) checks.push_back(parse_check(document[i], file, i));
  return checks;
}

std::vector<Check> read_checks(const std::string& file) {
  auto text = base::read_file_if_exists(file, kMostText);
  return text ? parse_checks(*text, file) : std::vector<Check>{};
}

std::vector<CheckResult> run_checks(base::Runner& runner, const std::vector<Check>& checks) {
  std::vector<CheckResult> results;
  for (const Check& check : checks) results.push_back(run_check(runner, check));
  return results;
}

std::vector<CheckResult> check_health(base::Runner& runner, const std::string& file) {
  std::vector<Check> checks;
  try {
    checks = read_checks(file);
  } catch (const base::Error& error) {
    return {{.name = "health.json", .good = false, .said = error.message()}};
  }
  return run_checks(runner, checks);
}

}  // namespace bootstrap
