#pragma once
#include <nlohmann/json_fwd.hpp>

#include <string>
#include <string_view>
#include <vector>

namespace cli {

/// Data goes to stdout through these; what cannot be written is an Error.
void print(std::string_view text);
void print_json(const nlohmann::ordered_json& document);

/// Rows under a heading in capitals, each column as wide as its widest cell.
std::string table(const std::vector<std::string>& heading, const std::vector<std::vector<std::string>>& rows);

}  // namespace cli
