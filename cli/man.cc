#include "cli/man.h"

#include <algorithm>
#include <cctype>
#include <sstream>

namespace cli {
namespace {

/// Without the marks of code and emphasis; a star that stands alone is a star.
std::string without_marks(std::string_view line) {
  std::string plain;
  for (size_t i = 0; i < line.size(); ++i) {
    if (line[i] == '`') continue;
    if (line.substr(i, 2) == "**") {
      ++i;
      continue;
    }
    plain += line[i];
  }
  return plain;
}

std::string heading(std::string_view text, bool bold) {
  std::string title(text);
  std::ranges::transform(title, title.begin(),
                         [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
  return bold ? "\x1b[1m" + title + "\x1b[0m" : title;
}

}  // namespace

std::optional<std::string_view> find_page(std::string_view command) {
  std::string name(command);
  std::ranges::replace(name, ' ', '-');
  auto page = std::ranges::find(pages(), name, &Page::name);
  if (page == pages().end()) return std::nullopt;
  return page->text;
}

std::string rendered(std::string_view markdown, bool bold) {
  std::string text;
  std::istringstream lines{std::string(markdown)};
  bool code = false;
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with("```")) {
      code = !code;
    } else if (code) {
      text += "        " + line + "\n";
    } else if (line.starts_with("# ")) {
      text += without_marks(line.substr(2)) + "\n";
    } else if (line.starts_with("## ")) {
      text += heading(line.substr(3), bold) + "\n";
    } else if (line.empty()) {
      text += "\n";
    } else {
      text += "    " + (line.starts_with("    ") ? line : without_marks(line)) + "\n";
    }
  }
  return text;
}

}  // namespace cli
