#pragma once
#include <string>
#include <string_view>
#include <vector>

namespace base {

/// The word of `known` that `word` was probably meant to be; empty when none is close.
std::string closest(std::string_view word, const std::vector<std::string>& known);

std::vector<std::string> lines_of(const std::string& text);

/// The first line of a longer text, cut to what fits into a message.
std::string first_line(const std::string& text);

/// For a terminal: spaces for what could steer it, the control characters of ASCII and of Unicode (C1).
std::string printable(std::string text);

/// What a program said last: some lines, each on a line of its own and indented, without what
/// could steer a terminal.
std::string last_lines(const std::string& text);

}  // namespace base
