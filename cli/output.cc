#include "cli/output.h"

#include <nlohmann/json.hpp>
#include <unistd.h>

#include <algorithm>
#include <format>

#include "base/fd.h"

namespace cli {

void print(std::string_view text) { base::write_full(STDOUT_FILENO, text, "standard output"); }

void print_json(const nlohmann::ordered_json& document) {
  print(document.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
}

std::string table(const std::vector<std::string>& heading,
                  const std::vector<std::vector<std::string>>& rows) {
  std::vector<size_t> widths(heading.size());
  auto widen = [&](const std::vector<std::string>& row) {
    for (size_t i = 0; i < widths.size(); ++i) widths[i] = std::max(widths[i], row.at(i).size());
  };
  widen(heading);
  std::ranges::for_each(rows, widen);

  std::string text;
  auto add = [&](const std::vector<std::string>& row) {
    std::string line;
    for (size_t i = 0; i < widths.size(); ++i) line += std::format("{:<{}}  ", row[i], widths[i]);
    text += line.substr(0, line.find_last_not_of(' ') + 1) + "\n";
  };
  add(heading);
  std::ranges::for_each(rows, add);
  return text;
}

}  // namespace cli
