#include "cli/man.h"

#include <algorithm>
#include <cctype>
#include <sstream>
#include <vector>

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

/// Text as roff has it: its escape character, and hyphens that can be copied as such. Marks of code and
/// emphasis are bold, which may go on in the next line; without `bold` they stay.
std::string roff_text(std::string_view line, bool* bold) {
  std::string text;
  for (size_t i = 0; i < line.size(); ++i) {
    bool mark = line[i] == '`' || line.substr(i, 2) == "**";
    if (bold != nullptr && mark) {
      i += line[i] == '`' ? 0 : 1;
      *bold = !*bold;
      text += *bold ? "\\fB" : "\\fR";
    } else if (line[i] == '\\') {
      text += "\\e";
    } else if (line[i] == '-') {
      text += "\\-";
    } else {
      text += line[i];
    }
  }
  // What begins with one of these would be a request.
  return text.starts_with('.') || text.starts_with('\'') ? "\\&" + text : text;
}

bool is_code(std::string_view line) { return line.starts_with("    "); }

/// A line of a page and whether it stands in code, without the fences.
struct Line {
  std::string text;
  bool code;
};

std::vector<Line> lines_of(std::string_view markdown) {
  std::vector<Line> all;
  std::istringstream lines{std::string(markdown)};
  bool fence = false;
  bool item = false;
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with("```")) {
      fence = !fence;
      continue;
    }
    if (line.starts_with("- ")) item = true;
    if (!line.empty() && line[0] != ' ' && line[0] != '-') item = false;
    // In an item four spaces are not yet code.
    bool code = fence || (item ? line.starts_with("      ") : is_code(line));
    if (code && !fence) line.erase(0, item ? 6 : 4);
    all.push_back({.text = std::move(line), .code = code});
  }
  return all;
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

std::string as_roff(const Page& page) {
  std::string title(page.name);
  std::ranges::transform(title, title.begin(),
                         [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
  std::string text = ".TH " + roff_text(title, nullptr) + " 1 \"\" drover \"\"\n";
  bool code = false;
  bool bold = false;
  bool summary = false;  // the first paragraph is what the NAME section wants
  for (const Line& line : lines_of(page.text)) {
    if (line.code != code && !(code && line.text.empty())) {
      text += line.code ? ".PP\n.RS 4\n.nf\n" : ".fi\n.RE\n";
      code = line.code;
    }
    if (code) {
      text += roff_text(line.text, nullptr) + "\n";
    } else if (line.text.starts_with("# ")) {
      text += ".SH NAME\n" + roff_text(page.name, nullptr) + " \\- ";
      summary = true;
    } else if (line.text.starts_with("## ")) {
      text += ".SH " + roff_text(heading(line.text.substr(3), false), nullptr) + "\n";
      summary = false;
    } else if (line.text.empty()) {
      if (!summary) text += ".PP\n";
    } else if (line.text.starts_with("- ")) {
      text += ".IP \\(bu 2\n" + roff_text(line.text.substr(2), &bold) + "\n";
    } else {
      text += roff_text(line.text.substr(line.text.find_first_not_of(' ')), &bold) + "\n";
    }
  }
  if (code) text += ".fi\n.RE\n";
  return text;
}

}  // namespace cli
