#include "bootstrap/release.h"

#include <nlohmann/json.hpp>

#include "base/fd.h"

namespace bootstrap {
namespace {

std::string text_in(const nlohmann::json& document, const char* key) {
  auto found = document.find(key);
  return found != document.end() && found->is_string() ? found->get<std::string>() : "";
}

}  // namespace

std::string os_release_value(std::string_view text, std::string_view key) {
  for (size_t begin = 0; begin < text.size();) {
    size_t end = std::min(text.find('\n', begin), text.size());
    std::string_view line = text.substr(begin, end - begin);
    begin = end + 1;
    if (!line.starts_with(key) || !line.substr(key.size()).starts_with('=')) continue;
    std::string_view value = line.substr(key.size() + 1);
    bool in_quotes = value.size() >= 2 && (value[0] == '"' || value[0] == '\'') && value.back() == value[0];
    return std::string(in_quotes ? value.substr(1, value.size() - 2) : value);
  }
  return {};
}

Release read_release(const std::string& etc) {
  if (auto text = base::read_file_if_exists(etc + "/drover/image.json")) {
    auto document = nlohmann::json::parse(*text, nullptr, /*allow_exceptions=*/false);
    if (document.is_object())
      return {.name = text_in(document, "name"), .version = text_in(document, "version")};
  }
  std::string text = base::read_file_if_exists(etc + "/os-release").value_or("");
  return {.name = os_release_value(text, "PRETTY_NAME"), .version = os_release_value(text, "IMAGE_VERSION")};
}

}  // namespace bootstrap
