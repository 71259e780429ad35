#include "base/toml_table.h"

#include <toml++/toml.hpp>

#include "base/text.h"

namespace base {
namespace {

const toml::node& node_of(const void* node) { return *static_cast<const toml::node*>(node); }

/// What a person calls the kind of a TOML value.
std::string_view kind_of(const toml::node& node) {
  if (node.is_string()) return "a string";
  if (node.is_integer()) return "a number";
  if (node.is_boolean()) return "true or false";
  if (node.is_array()) return "a list";
  if (node.is_table()) return "a table";
  return "a value of another kind";
}

}  // namespace

std::vector<std::string> texts_of(const std::vector<Word>& words) {
  std::vector<std::string> texts;
  for (const Word& word : words) texts.push_back(word.text);
  return texts;
}

Error conflict(const std::string& place, const std::string& what) { return error("{}: {}", place, what); }

/// A table, and the document that it is a part of.
struct TomlTable::Node {
  std::shared_ptr<const toml::table> document;
  const toml::table* table;
};

TomlTable TomlTable::parse(std::string_view text, const std::string& file) {
  try {
    auto document = std::make_shared<const toml::table>(toml::parse(text, file));
    return {std::make_shared<Node>(Node{.document = document, .table = document.get()}), file, ""};
  } catch (const toml::parse_error& error) {
    throw base::error("{}:{}: {}", file, error.source().begin.line, error.description())
        .hint("the file is TOML: text stands in quotes, lists in [ ]");
  }
}

std::shared_ptr<const TomlTable::Node> TomlTable::part(const void* table) const {
  return std::make_shared<Node>(
      Node{.document = table_->document, .table = static_cast<const toml::table*>(table)});
}

std::string TomlTable::place() const { return place_at(static_cast<const toml::node*>(table_->table)); }

std::string TomlTable::place_of(const std::string& key) {
  const void* node = find(key);
  return node != nullptr ? place_at(node) : place();
}

std::string TomlTable::place_at(const void* node) const {
  return std::format("{}:{}", file_, node_of(node).source().begin.line);
}

std::optional<std::string> TomlTable::text(const std::string& key) {
  const void* node = find(key);
  if (node == nullptr) return std::nullopt;
  return text_of(node, key);
}

std::string TomlTable::required_text(const std::string& key, const std::string& expected) {
  if (auto value = text(key)) return *value;
  throw missing(key, expected);
}

std::optional<bool> TomlTable::flag(const std::string& key) {
  const void* node = find(key);
  if (node == nullptr) return std::nullopt;
  if (!node_of(node).is_boolean()) throw bad(node, key, "true or false");
  return node_of(node).as_boolean()->get();
}

std::optional<unsigned> TomlTable::number(const std::string& key, unsigned least, unsigned most) {
  const void* node = find(key);
  if (node == nullptr) return std::nullopt;
  auto value = node_of(node).value_exact<int64_t>();
  if (!value || *value < least || *value > most)
    throw bad(node, key, std::format("a whole number from {} to {}", least, most));
  return static_cast<unsigned>(*value);
}

std::vector<Word> TomlTable::words(const std::string& key) {
  std::vector<Word> words;
  const void* node = find(key);
  if (node == nullptr) return words;
  if (!node_of(node).is_array()) throw bad(node, key, "a list of strings");
  for (const toml::node& entry : *node_of(node).as_array())
    words.push_back({.text = text_of(&entry, key), .place = place_at(&entry)});
  return words;
}

std::vector<std::string> TomlTable::texts(const std::string& key) { return texts_of(words(key)); }

std::optional<TomlTable> TomlTable::table(const std::string& key) {
  const void* node = find(key);
  if (node == nullptr) return std::nullopt;
  if (!node_of(node).is_table()) throw bad(node, key, std::format("a table, written [{}]", path(key)));
  return TomlTable(part(node_of(node).as_table()), file_, path(key));
}

std::vector<TomlTable> TomlTable::tables(const std::string& key) {
  std::vector<TomlTable> tables;
  const void* node = find(key);
  if (node == nullptr) return tables;
  const toml::array* array = node_of(node).as_array();
  if (array == nullptr || !array->is_array_of_tables())
    throw bad(node, key, std::format("tables, each written [[{}]]", path(key)));
  for (const toml::node& entry : *array) tables.push_back({part(entry.as_table()), file_, path(key)});
  return tables;
}

std::map<std::string, std::string> TomlTable::texts_by_name() const {
  std::map<std::string, std::string> texts;
  for (const auto& [key, node] : *table_->table) texts[std::string(key)] = text_of(&node, std::string(key));
  return texts;
}

void TomlTable::finish() const {
  for (const auto& [key, node] : *table_->table) {
    std::string name(key);
    if (known_.contains(name)) continue;
    std::string close = closest(name, {known_.begin(), known_.end()});
    std::string all;
    for (const std::string& known : known_) all += (all.empty() ? "" : ", ") + known;
    throw base::error("{}:{}: unknown key {}", file_, key.source().begin.line, path(name))
        .hint(close.empty() ? "known here are: " + all : std::format("did you mean {}?", close));
  }
}

Error TomlTable::wrong(const std::string& key, const std::string& expected, const std::string& found) {
  return conflict(place_of(key), std::format("{}: expected {}, found {}", path(key), expected, found));
}

Error TomlTable::missing(const std::string& key, const std::string& expected) const {
  return conflict(place(), std::format("{} is missing: expected {}", path(key), expected));
}

const void* TomlTable::find(const std::string& key) {
  known_.insert(key);
  return table_->table->get(key);
}

std::string TomlTable::path(const std::string& key) const {
  return where_.empty() ? key : where_ + "." + key;
}

std::string TomlTable::text_of(const void* node, const std::string& key) const {
  auto value = node_of(node).value_exact<std::string>();
  if (!value) throw bad(node, key, "a string");
  if (value->contains('\0')) throw bad(node, key, "a string without zero bytes");
  return *value;
}

Error TomlTable::bad(const void* node, const std::string& key, const std::string& expected) const {
  std::string found(kind_of(node_of(node)));
  if (auto number = node_of(node).value_exact<int64_t>()) found = std::to_string(*number);
  return conflict(place_at(node), std::format("{}: expected {}, found {}", path(key), expected, found));
}

}  // namespace base
