#include "base/text.h"

#include <algorithm>
#include <sstream>
#include <utility>

namespace base {
namespace {

/// How many letters must be added, dropped, replaced or swapped with their neighbour to make one
/// word of the other (optimal string alignment).
size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> before, last, row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    before = std::exchange(last, row);
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      row[j] = std::min({last[j] + 1, row[j - 1] + 1, last[j - 1] + (a[i - 1] != b[j - 1])});
      bool swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
      if (swapped) row[j] = std::min(row[j], before[j - 2] + 1);
    }
  }
  return row[b.size()];
}

}  // namespace

std::string closest(std::string_view word, const std::vector<std::string>& known) {
  std::string best;
  size_t least = std::max<size_t>(1, word.size() / 3) + 1;
  for (const std::string& candidate : known)
    if (size_t distance = edit_distance(word, candidate); distance < least) {
      least = distance;
      best = candidate;
    }
  return best;
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) lines.push_back(std::move(line));
  return lines;
}

std::string first_line(const std::string& text) {
  constexpr size_t kShown = 60;
  for (const std::string& line : lines_of(text)) {
    size_t begin = line.find_first_not_of(' ');
    if (begin == std::string::npos) continue;
    std::string shown = line.substr(begin);
    return shown.size() > kShown ? shown.substr(0, kShown - 3) + "..." : shown;
  }
  return "";
}

std::string printable(std::string text) {
  for (size_t i = 0; i < text.size(); ++i) {
    const auto c = static_cast<unsigned char>(text[i]);
    const auto next = static_cast<unsigned char>(i + 1 < text.size() ? text[i + 1] : 0);
    if (c < 0x20 || c == 0x7f)
      text[i] = ' ';
    else if (c == 0xc2 && next >= 0x80 && next <= 0x9f)  // U+0080 to U+009F in UTF-8
      text[i] = text[i + 1] = ' ';
  }
  return text;
}

std::string last_lines(const std::string& text) {
  constexpr size_t kShown = 8;
  std::vector<std::string> lines = lines_of(text);
  std::erase_if(lines,
                [](const std::string& line) { return line.find_first_not_of(' ') == std::string::npos; });
  std::string shown;
  for (size_t i = lines.size() > kShown ? lines.size() - kShown : 0; i < lines.size(); ++i) {
    shown += "\n    " + printable(std::move(lines[i]));
  }
  return shown;
}

}  // namespace base
