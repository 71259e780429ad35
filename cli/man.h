#pragma once
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace cli {

/// A page of docs/man/, built into the program.
struct Page {
  std::string_view name;  ///< of its file, without ".md": "drover-node-box-create"
  std::string_view text;
};

/// All of them; made by cmake/embed_pages.cmake.
std::span<const Page> pages();

/// The page of a command as it is typed: "drover-node box create".
std::optional<std::string_view> find_page(std::string_view command);

/// The page's Markdown for a terminal: headings in capitals (bold where `bold`), what is below
/// them indented and filled to `width` columns, marks of code and emphasis taken away, a table as a list.
std::string rendered(std::string_view markdown, bool bold, size_t width);

/// The page as man(1) reads it (groff_man(7)), of section 1.
std::string as_roff(const Page& page);

}  // namespace cli
