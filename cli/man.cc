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

/// What a page consists of. Text, items and the synopsis may be filled.
struct Block {
  enum class Kind { kBlank, kTitle, kHeading, kText, kItem, kCode, kSynopsis };
  Kind kind;
  std::string text;
  std::string mark;  ///< of an item: "-" or "1."
};

/// "-" or "1." where an item begins.
std::string mark_of(std::string_view line) {
  size_t digits = line.find_first_not_of("0123456789");
  if (line.starts_with("- ")) return "-";
  bool numbered = digits != 0 && digits != std::string_view::npos && line.substr(digits).starts_with(". ");
  return numbered ? std::string(line.substr(0, digits + 1)) : "";
}

std::vector<std::string> cells_of(std::string_view row) {
  std::vector<std::string> cells;
  for (size_t at = 1, end = row.find('|', at); end != std::string_view::npos;
       at = end + 1, end = row.find('|', at)) {
    std::string_view cell = row.substr(at, end - at);
    size_t first = cell.find_first_not_of(' ');
    cells.emplace_back(
        first == std::string_view::npos ? "" : cell.substr(first, cell.find_last_not_of(' ') + 1 - first));
  }
  return cells;
}

/// A table's row as an item: of two columns "FIRST: SECOND", of more "FIRST - HEADING: SECOND; HEADING:
/// THIRD".
std::string item_of(const std::vector<std::string>& heading, const std::vector<std::string>& row) {
  std::string text = row.front();
  for (size_t k = 1; k < std::min(row.size(), heading.size()); k++) {
    if (row[k].empty()) continue;
    const bool headed = heading.size() > 2;
    text += (k > 1 ? "; " : headed ? " - " : ": ") + (headed ? heading[k] + ": " : "") + row[k];
  }
  return text;
}

/// Goes through a page line by line.
class Reader {
 public:
  std::vector<Block> read(std::string_view markdown) {
    std::istringstream lines{std::string(markdown)};
    for (std::string line; std::getline(lines, line);) take(line);
    return std::move(blocks_);
  }

 private:
  using Kind = Block::Kind;

  void take(const std::string& line) {
    if (line.starts_with("```")) {
      fence_ = !fence_;
    } else if (fence_) {
      add(Kind::kCode, line);
    } else if (line.starts_with("# ")) {
      add(Kind::kTitle, line.substr(2));
    } else if (line.starts_with("## ")) {
      synopsis_ = line == "## Synopsis";
      item_ = false;
      add(Kind::kHeading, line.substr(3));
    } else if (line.empty()) {
      heading_.clear();
      add(Kind::kBlank, "");
    } else if (line.starts_with("|")) {
      row(line);
    } else {
      prose(line);
    }
  }

  void row(const std::string& line) {
    if (heading_.empty())
      heading_ = cells_of(line);
    else if (!line.starts_with("| ---"))
      add(Kind::kItem, item_of(heading_, cells_of(line)), "-");
  }

  void prose(const std::string& line) {
    std::string mark = mark_of(line);
    if (line[0] != ' ') item_ = !mark.empty();
    size_t code = item_ ? 6 : 4;  // in an item four spaces are not yet code
    std::string text = line.substr(line.find_first_not_of(' '));
    if (line.size() - text.size() >= code) {
      // A synopsis that goes on is indented more.
      if (synopsis_ && line.size() - text.size() > code && !blocks_.empty())
        blocks_.back().text += " " + text;
      else
        add(synopsis_ ? Kind::kSynopsis : Kind::kCode, synopsis_ ? text : line.substr(code));
    } else if (!mark.empty()) {
      add(Kind::kItem, text.substr(mark.size() + 1), mark);
    } else if (!blocks_.empty() &&
               (blocks_.back().kind == Kind::kText || blocks_.back().kind == Kind::kItem) &&
               (blocks_.back().kind == Kind::kText) == (line[0] != ' ')) {
      blocks_.back().text += " " + text;
    } else {
      add(Kind::kText, text);
    }
  }

  void add(Kind kind, std::string text, std::string mark = "") {
    blocks_.push_back({.kind = kind, .text = std::move(text), .mark = std::move(mark)});
  }

  std::vector<Block> blocks_;
  std::vector<std::string> heading_;  ///< of the table that is being read
  bool fence_ = false, item_ = false, synopsis_ = false;
};

size_t columns_of(std::string_view text) {  // all but the bytes that go on with a character of UTF-8
  return static_cast<size_t>(
      std::ranges::count_if(text, [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; }));
}

/// The words of `text` in lines of `width` columns; the first begins with `first`, others with `rest`.
std::string filled(std::string_view text, size_t width, std::string first, const std::string& rest) {
  std::string all, line = std::move(first);
  bool begun = false;
  std::istringstream words{std::string(text)};
  for (std::string word; words >> word;) {
    if (begun && columns_of(line) + 1 + columns_of(word) > width) {
      all += line + "\n";
      line = rest;
      begun = false;
    }
    line += (begun ? " " : "") + word;
    begun = true;
  }
  return all + line + "\n";
}

}  // namespace

std::optional<std::string_view> find_page(std::string_view command) {
  std::string name(command);
  std::ranges::replace(name, ' ', '-');
  auto page = std::ranges::find(pages(), name, &Page::name);
  if (page == pages().end()) return std::nullopt;
  return page->text;
}

std::string rendered(std::string_view markdown, bool bold, size_t width) {
  using enum Block::Kind;
  std::string text;
  const std::string margin(4, ' '), inner(8, ' ');
  for (const Block& block : Reader().read(markdown)) {
    std::string plain = without_marks(block.text);
    switch (block.kind) {
      case kBlank:
        text += "\n";
        break;
      case kTitle:
        text += plain + "\n";
        break;
      case kHeading:
        text += heading(block.text, bold) + "\n";
        break;
      case kCode:
        text += inner + block.text + "\n";
        break;
      case kSynopsis:
        text += filled(block.text, width, inner, inner + margin);
        break;
      case kText:
        text += filled(plain, width, margin, margin);
        break;
      case kItem:
        text +=
            filled(plain, width, margin + block.mark + " ", margin + std::string(block.mark.size() + 1, ' '));
    }
  }
  return text;
}

std::string as_roff(const Page& page) {
  using enum Block::Kind;
  std::string title(page.name);
  std::ranges::transform(title, title.begin(),
                         [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
  std::string text = ".TH " + roff_text(title, nullptr) + " 1 \"\" drover \"\"\n";
  bool code = false;
  bool bold = false;
  bool summary = false;  // the first paragraph is what the NAME section wants
  for (const Block& block : Reader().read(page.text)) {
    if ((block.kind == kCode) != code && !(code && block.kind == kBlank)) {
      text += code ? ".fi\n.RE\n" : ".PP\n.RS 4\n.nf\n";
      code = !code;
    }
    switch (block.kind) {
      case kBlank:
        if (code)
          text += "\n";
        else if (!summary)
          text += ".PP\n";
        break;
      case kTitle:
        text += ".SH NAME\n" + roff_text(page.name, nullptr) + " \\- ";
        summary = true;
        break;
      case kHeading:
        text += ".SH " + roff_text(heading(block.text, false), nullptr) + "\n";
        summary = false;
        break;
      case kCode:
        text += roff_text(block.text, nullptr) + "\n";
        break;
      case kSynopsis:
        text += ".HP 4\n" + roff_text(block.text, nullptr) + "\n";
        break;
      case kText:
        text += roff_text(block.text, &bold) + "\n";
        break;
      case kItem:
        text += ".IP " + std::string(block.mark == "-" ? "\\(bu 2" : block.mark + " 3") + "\n" +
                roff_text(block.text, &bold) + "\n";
    }
  }
  if (code) text += ".fi\n.RE\n";
  return text;
}

}  // namespace cli
