#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>
#include <sstream>

#include "base/child.h"
#include "cli/man.h"

namespace cli {
namespace {

/// Every command of both programs, with its arguments and options.
std::map<std::string, std::vector<std::string>> all_commands() {
  std::map<std::string, std::vector<std::string>> commands;
  for (std::string program : {"drover", "drover-node"}) {
    std::string list =
        base::ProcessRunner().run({.argv = {DROVER_BIN_DIR "/" + program, "--list-commands"}}).out;
    std::istringstream lines(list);
    for (std::string line; std::getline(lines, line);) {
      size_t tab = line.find('\t');
      std::istringstream words(line.substr(tab + 1));
      auto& options = commands[line.substr(0, tab)];
      for (std::string word; words >> word;) options.push_back(word);
    }
  }
  commands.erase("drover");  // as a program without commands lists itself
  commands.erase("drover-node");
  return commands;
}

std::string section(std::string_view page, const std::string& name) {
  size_t begin = page.find("\n## " + name + "\n\n");
  if (begin == std::string_view::npos) return "";
  begin += name.size() + 6;
  return std::string(page.substr(begin, page.find("\n## ", begin) - begin));
}

TEST(Pages, EveryCommandHasOne) {
  for (const auto& [command, options] : all_commands())
    EXPECT_TRUE(find_page(command)) << command << " has no page in docs/man";
}

TEST(Pages, EveryPageIsOfACommand) {
  auto commands = all_commands();
  std::set<std::string> names = {"drover", "drover-node"};
  for (const auto& [command, options] : commands) {
    std::string name = command;
    std::ranges::replace(name, ' ', '-');
    names.insert(name);
  }
  for (const Page& page : pages())
    EXPECT_TRUE(names.contains(std::string(page.name))) << page.name << " is no command";
}

TEST(Pages, EveryArgumentAndOptionIsExplained) {
  for (const auto& [command, options] : all_commands()) {
    std::string explained = section(find_page(command).value_or(""), "Options");
    for (const std::string& option : options)
      EXPECT_TRUE(explained.contains("`" + option)) << "Options of " << command << " lack `" << option << "`";
  }
}

TEST(Pages, HaveTheSameShape) {
  for (const Page& page : pages()) {
    std::string title(page.text.substr(0, page.text.find('\n')));
    std::ranges::replace(title, ' ', '-');
    EXPECT_EQ(title, "#-" + std::string(page.name));
    size_t at = 0;
    for (std::string name : {"Synopsis", "Description", "Options", "Exit status", "Examples"}) {
      EXPECT_NE(section(page.text, name), "") << page.name << " has no section " << name;
      size_t next = page.text.find("\n## " + name);
      EXPECT_LE(at, next) << page.name << ": " << name << " stands too early";
      at = next;
    }
    EXPECT_FALSE(page.text.contains('\t')) << page.name;
  }
}

TEST(Pages, AreRenderedForATerminal) {
  const std::string page =
      "# drover x\n\nDoes **x**.\n\n## Exit status\n\n- `0`: done\n\nThen:\n\n    code "
      "`stays`\n\n```\nfence\n```\n";
  EXPECT_EQ(rendered(page, false, 80),
            "drover x\n\n    Does x.\n\nEXIT STATUS\n\n    - 0: done\n\n    Then:\n\n        code "
            "`stays`\n\n        fence\n");
  EXPECT_TRUE(rendered(page, true, 80).contains("\x1b[1mEXIT STATUS\x1b[0m\n"));
}

TEST(Pages, AreFilledToTheTerminal) {
  EXPECT_EQ(
      rendered("one two\nthree\n\n1. four five six\n   seven\n- eight\n\n      co  de\n\nnine\n", false, 18),
      "    one two three\n\n"
      "    1. four five\n       six seven\n    - eight\n\n        co  de\n\n    nine\n");
  EXPECT_EQ(rendered("## Synopsis\n\n    x A\n      [B]\n    y\n", false, 14),
            "SYNOPSIS\n\n        x A\n            [B]\n        y\n");
  EXPECT_EQ(rendered("längste\nWörter\nüber\n", false, 18), "    längste Wörter\n    über\n");
}

TEST(Pages, HaveTheirTablesAsLists) {
  EXPECT_EQ(rendered("| line | good when |\n| --- | --- |\n| `a b` | it is |\n", false, 80),
            "    - a b: it is\n");
  EXPECT_EQ(rendered("| mode | sent | frozen |\n| --- | --- | --- |\n| x | first | long |\n| y | never | |\n",
                     false, 80),
            "    - x - sent: first; frozen: long\n    - y - sent: never\n");
}

}  // namespace
}  // namespace cli
