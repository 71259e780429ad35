#pragma once
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"

namespace base {

/// A word of a file, and where it stands, for messages about it: "FILE:LINE".
struct Word {
  std::string text;
  std::string place = {};
};
std::vector<std::string> texts_of(const std::vector<Word>& words);

/// "PLACE: what", for what no single key is to blame for.
Error conflict(const std::string& place, const std::string& what);

/// One table of a TOML file that a person has written. What is not as expected is an Error
/// "FILE:LINE: KEY: expected …, found …". Every key that is read is remembered, so that finish() finds those
/// that nobody knows.
class TomlTable {
 public:
  /// The whole document. `file` is its name in messages; "text stands in quotes" is their hint where it is no
  /// TOML.
  static TomlTable parse(std::string_view text, const std::string& file);

  [[nodiscard]] const std::string& file() const { return file_; }
  [[nodiscard]] std::string place() const;                     ///< "FILE:LINE"
  [[nodiscard]] std::string place_of(const std::string& key);  ///< the table's own where it has no such key

  std::optional<std::string> text(const std::string& key);
  std::string required_text(const std::string& key, const std::string& expected);
  std::optional<bool> flag(const std::string& key);
  std::optional<unsigned> number(const std::string& key, unsigned least, unsigned most);
  /// Of a list of strings; none where the key is not there.
  std::vector<Word> words(const std::string& key);
  std::vector<std::string> texts(const std::string& key);
  std::optional<TomlTable> table(const std::string& key);    ///< [key]
  std::vector<TomlTable> tables(const std::string& key);     ///< [[key]]
  std::map<std::string, std::string> texts_by_name() const;  ///< a table whose keys are its reader's data

  /// Every key must have been asked for.
  void finish() const;

  [[nodiscard]] Error wrong(const std::string& key, const std::string& expected, const std::string& found);
  [[nodiscard]] Error missing(const std::string& key, const std::string& expected) const;

 private:
  struct Node;  ///< toml++'s
  TomlTable(std::shared_ptr<const Node> table, std::string file, std::string where)
      : table_(std::move(table)), file_(std::move(file)), where_(std::move(where)) {}
  [[nodiscard]] std::shared_ptr<const Node> part(const void* table) const;
  const void* find(const std::string& key);
  [[nodiscard]] std::string path(const std::string& key) const;
  [[nodiscard]] std::string place_at(const void* node) const;
  [[nodiscard]] std::string text_of(const void* node, const std::string& key) const;
  [[nodiscard]] Error bad(const void* node, const std::string& key, const std::string& expected) const;

  std::shared_ptr<const Node> table_;
  std::string file_, where_;
  std::set<std::string> known_;
};

}  // namespace base
