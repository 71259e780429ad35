#include "templates/definition.h"

#include <toml++/toml.hpp>

#include <algorithm>
#include <filesystem>
#include <limits>
#include <set>

#include "base/error.h"
#include "base/fd.h"
#include "templates/manifest.h"
#include "templates/text.h"

namespace templates {
namespace {

constexpr size_t kMostText = 1 << 20;
constexpr size_t kMostSource = 64 << 20;
constexpr unsigned kLastId = 65'535;  // a box has the ids 0 to 65535

bool only(std::string_view text, std::string_view allowed) {
  return !text.empty() && text.find_first_not_of(allowed) == std::string_view::npos;
}

constexpr std::string_view kLowerDigits = "abcdefghijklmnopqrstuvwxyz0123456789";

/// What a person calls the kind of a TOML value.
std::string_view kind_of(const toml::node& node) {
  if (node.is_string()) return "a string";
  if (node.is_integer()) return "a number";
  if (node.is_boolean()) return "true or false";
  if (node.is_array()) return "a list";
  if (node.is_table()) return "a table";
  return "a value of another kind";
}

/// One table of the file. Every key that is read is remembered, so that `finish` finds those
/// that nobody knows.
class Table {
 public:
  Table(const toml::table& table, std::string file, std::string where)
      : table_(table), file_(std::move(file)), where_(std::move(where)) {}

  [[nodiscard]] unsigned line() const { return table_.source().begin.line; }
  [[nodiscard]] unsigned line_of(const std::string& key) {
    const toml::node* node = find(key);
    return node != nullptr ? node->source().begin.line : line();
  }

  std::optional<std::string> text(const std::string& key) {
    const toml::node* node = find(key);
    if (node == nullptr) return std::nullopt;
    return text_of(*node, key);
  }

  std::string required_text(const std::string& key, const std::string& expected) {
    if (auto value = text(key)) return *value;
    throw missing(key, expected);
  }

  std::optional<bool> flag(const std::string& key) {
    const toml::node* node = find(key);
    if (node == nullptr) return std::nullopt;
    if (!node->is_boolean()) throw bad(*node, key, "true or false");
    return node->as_boolean()->get();
  }

  std::optional<unsigned> number(const std::string& key, unsigned least, unsigned most) {
    const toml::node* node = find(key);
    if (node == nullptr) return std::nullopt;
    auto value = node->value_exact<int64_t>();
    if (!value || *value < least || *value > most)
      throw bad(*node, key, std::format("a whole number from {} to {}", least, most));
    return static_cast<unsigned>(*value);
  }

  std::vector<Definition::Word> words(const std::string& key) {
    std::vector<Definition::Word> words;
    const toml::node* node = find(key);
    if (node == nullptr) return words;
    if (!node->is_array()) throw bad(*node, key, "a list of strings");
    for (const toml::node& entry : *node->as_array())
      words.push_back({.text = text_of(entry, key), .line = entry.source().begin.line});
    return words;
  }

  std::vector<std::string> texts(const std::string& key) {
    std::vector<std::string> texts;
    for (auto& word : words(key)) texts.push_back(std::move(word.text));
    return texts;
  }

  std::optional<Table> table(const std::string& key) {
    const toml::node* node = find(key);
    if (node == nullptr) return std::nullopt;
    if (!node->is_table()) throw bad(*node, key, std::format("a table, written [{}]", path(key)));
    return Table(*node->as_table(), file_, path(key));
  }

  std::vector<Table> tables(const std::string& key) {
    std::vector<Table> tables;
    const toml::node* node = find(key);
    if (node == nullptr) return tables;
    const toml::array* array = node->as_array();
    if (array == nullptr || !array->is_array_of_tables())
      throw bad(*node, key, std::format("tables, each written [[{}]]", path(key)));
    for (const toml::node& entry : *array) tables.emplace_back(*entry.as_table(), file_, path(key));
    return tables;
  }

  std::map<std::string, std::string> texts_by_name() {
    std::map<std::string, std::string> texts;
    for (const auto& [key, node] : table_) texts[std::string(key)] = text_of(node, std::string(key));
    return texts;
  }

  /// Every key must have been asked for.
  void finish() const {
    for (const auto& [key, node] : table_) {
      std::string name(key);
      if (known_.contains(name)) continue;
      std::string close = closest(name, {known_.begin(), known_.end()});
      std::string all;
      for (const std::string& known : known_) all += (all.empty() ? "" : ", ") + known;
      throw base::error("{}:{}: unknown key {}", file_, key.source().begin.line, path(name))
          .hint(close.empty() ? "known here are: " + all : std::format("did you mean {}?", close));
    }
  }

  [[nodiscard]] base::Error wrong(const std::string& key, const std::string& expected,
                                  const std::string& found) {
    return base::error("{}:{}: {}: expected {}, found {}", file_, line_of(key), path(key), expected, found);
  }

  [[nodiscard]] base::Error missing(const std::string& key, const std::string& expected) const {
    return base::error("{}:{}: {} is missing: expected {}", file_, line(), path(key), expected);
  }

  [[nodiscard]] base::Error conflict(unsigned at, const std::string& what) const {
    return base::error("{}:{}: {}", file_, at, what);
  }

 private:
  const toml::node* find(const std::string& key) {
    known_.insert(key);
    return table_.get(key);
  }

  [[nodiscard]] std::string path(const std::string& key) const {
    return where_.empty() ? key : where_ + "." + key;
  }

  [[nodiscard]] std::string text_of(const toml::node& node, const std::string& key) const {
    auto value = node.value_exact<std::string>();
    if (!value) throw bad(node, key, "a string");
    if (value->contains('\0')) throw bad(node, key, "a string without zero bytes");
    return *value;
  }

  [[nodiscard]] base::Error bad(const toml::node& node, const std::string& key,
                                const std::string& expected) const {
    std::string found(kind_of(node));
    if (auto number = node.value_exact<int64_t>()) found = std::to_string(*number);
    return base::error("{}:{}: {}: expected {}, found {}", file_, node.source().begin.line, path(key),
                       expected, found);
  }

  const toml::table& table_;
  std::string file_, where_;
  std::set<std::string> known_;
};

bool clean_absolute_path(const std::string& path) {
  return path.starts_with('/') && path.size() > 1 && path.size() < 4096 &&
         std::filesystem::path(path).lexically_normal() == path && !path.ends_with('/');
}

Definition::Distribution parse_distribution(Table& in) {
  constexpr std::array kVariants = {"extract", "essential", "apt", "required", "important"};
  Definition::Distribution distribution;
  distribution.suite = in.required_text("suite", "a Debian suite such as \"trixie\"");
  if (!only(distribution.suite, std::string(kLowerDigits) + "-"))
    throw in.wrong("suite", "a Debian suite such as \"trixie\"", '"' + distribution.suite + '"');
  if (auto variant = in.text("variant")) distribution.variant = *variant;
  if (std::ranges::find(kVariants, distribution.variant) == kVariants.end())
    throw in.wrong("variant", "extract, essential, apt, required or important",
                   '"' + distribution.variant + '"');
  in.finish();
  return distribution;
}

Definition::Mirror parse_mirror(Table& in, const std::string& directory) {
  Definition::Mirror mirror;
  if (auto url = in.text("url")) {
    mirror.url = *url;
    if (!url->contains(":/") || url->find_first_of(" \t\n[]") != std::string::npos)
      throw in.wrong("url", "the mirror's URL", '"' + *url + '"');
  }
  if (auto keyring = in.text("keyring")) {
    mirror.keyring = std::filesystem::absolute(std::filesystem::path(directory) / *keyring);
    if (!base::exists(mirror.keyring))
      throw in.wrong("keyring", "a file with the mirror's keys", "no file " + mirror.keyring);
  }
  if (auto components = in.texts("components"); !components.empty()) mirror.components = components;
  for (const std::string& component : mirror.components)
    if (!only(component, std::string(kLowerDigits) + "-/"))
      throw in.wrong("components", "components such as \"main\"", '"' + component + '"');
  in.finish();
  return mirror;
}

unsigned parse_mode(Table& in, unsigned otherwise) {
  auto mode = in.text("mode");
  if (!mode) return otherwise;
  if (mode->size() > 5 || !only(*mode, "01234567"))
    throw in.wrong("mode", "octal digits in quotes such as \"0755\"", '"' + *mode + '"');
  auto value = static_cast<unsigned>(std::stoul(*mode, nullptr, 8));
  if (value > 07777) throw in.wrong("mode", "at most \"7777\"", '"' + *mode + '"');
  return value;
}

void parse_owner(Table& in, Definition::File& file) {
  auto owner = in.text("owner");
  if (!owner) return;
  auto valid = [](const std::string& name) {
    if (name.size() > 32 || !only(name, std::string(kLowerDigits) + "_-")) return false;
    return !only(name, "0123456789") || (name.size() <= 5 && std::stoul(name) <= kLastId);
  };
  size_t colon = owner->find(':');
  file.owner = owner->substr(0, colon);
  file.group = colon == std::string::npos ? file.owner : owner->substr(colon + 1);
  if (!valid(file.owner) || !valid(file.group))
    throw in.wrong("owner", "USER or USER:GROUP, names or numbers up to 65535", '"' + *owner + '"');
}

std::string read_source(Table& in, const std::string& source, const std::string& directory) {
  std::string path = std::filesystem::path(directory) / source;
  auto content = base::read_file_if_exists(path, kMostSource);
  if (!content) throw in.wrong("source", "a file beside the definition", "no file " + path);
  return *content;
}

Definition::File parse_file(Table& in, const std::string& directory) {
  Definition::File file;
  file.line = in.line();
  file.path = in.required_text("path", "an absolute path in the template");
  if (!clean_absolute_path(file.path))
    throw in.wrong("path", "an absolute path without \".\", \"..\" or a slash at its end",
                   '"' + file.path + '"');
  auto content = in.text("content"), source = in.text("source"), symlink = in.text("symlink");
  bool directory_wanted = in.flag("directory").value_or(false);
  int given = content.has_value() + source.has_value() + symlink.has_value() + directory_wanted;
  if (given != 1)
    throw in.conflict(file.line, std::format("file {}: expected exactly one of content, source, symlink "
                                             "and directory, found {}",
                                             file.path, given == 0 ? "none" : std::to_string(given)));
  if (content) file.content = *content;
  if (source) file.content = read_source(in, *source, directory);
  if (symlink) {
    file.kind = Definition::File::Kind::kSymlink;
    file.content = *symlink;
    if (symlink->empty()) throw in.wrong("symlink", "where it leads", "nothing");
  }
  if (directory_wanted) file.kind = Definition::File::Kind::kDirectory;
  file.mode = parse_mode(in, directory_wanted ? 0755 : 0644);
  parse_owner(in, file);
  file.early = in.flag("early").value_or(false);
  in.finish();
  return file;
}

Definition::Strip parse_strip(Table& in) {
  Definition::Strip strip;
  strip.documentation = in.flag("documentation").value_or(true);
  strip.locales = in.flag("locales").value_or(true);
  strip.caches = in.flag("caches").value_or(true);
  strip.paths = in.texts("paths");
  for (const std::string& path : strip.paths)
    if (!clean_absolute_path(path))
      throw in.wrong("paths", "absolute paths, with * and ? as a shell knows them", '"' + path + '"');
  in.finish();
  return strip;
}

Definition::Box parse_box(Table& in) {
  Definition::Box box;
  box.line = in.line();
  if (auto init = in.texts("init"); !init.empty()) box.init = init;
  if (auto env = in.table("env")) box.env = env->texts_by_name();
  box.working_dir = in.text("working_dir");
  box.stop_signal = in.text("stop_signal");
  box.stop_seconds = in.number("stop_seconds", 1, 3600);
  box.control_groups = in.flag("control_groups");
  in.finish();
  // What is given is looked at as a whole with something valid in the place of what is not.
  Start start = {.init = box.init.value_or(std::vector<std::string>{"/sbin/init"}), .env = box.env};
  if (box.working_dir) start.working_dir = *box.working_dir;
  if (box.stop_signal) start.stop_signal = *box.stop_signal;
  if (std::string problem = problem_with(start); !problem.empty())
    throw in.conflict(box.line, "box: expected " + problem);
  return box;
}

void check_packages(Table& in, const std::vector<Definition::Word>& packages) {
  for (const auto& [text, line] : packages) {
    size_t equals = text.find('=');
    std::string_view name = std::string_view(text).substr(0, equals);
    bool good = name.size() >= 2 && only(name, std::string(kLowerDigits) + "+.-") &&
                only(name.substr(0, 1), kLowerDigits) && !name.ends_with('-');
    if (equals != std::string::npos)
      good = good && only(text.substr(equals + 1),
                          "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.+-~:");
    if (!good)
      throw in.conflict(
          line, std::format("packages: expected a package's name, or NAME=VERSION, found \"{}\"", text));
  }
}

Definition parse_top(Table& in, const std::string& file, const std::string& directory) {
  Definition definition;
  definition.file = file;
  definition.name = in.required_text("name", "the template's name");
  if (!valid_name(definition.name))
    throw in.wrong("name", "lower-case letters, digits and . + - (at most 63)", '"' + definition.name + '"');
  definition.description = in.text("description").value_or("");
  if (auto base = in.text("base")) {
    definition.base = {.text = *base, .line = in.line_of("base")};
    if (!valid_reference(*base))
      throw in.wrong("base", "NAME or NAME@VERSION of a template", '"' + *base + '"');
  }
  if (auto distribution = in.table("distribution"))
    definition.distribution = parse_distribution(*distribution);
  if (auto mirror = in.table("mirror")) definition.mirror = parse_mirror(*mirror, directory);
  if (definition.base.text.empty() && !definition.distribution)
    throw in.missing("base", "the name of an OS template, or a table [distribution] to make one");
  if (!definition.base.text.empty() && definition.distribution)
    throw in.conflict(definition.base.line,
                      "base and [distribution] exclude each other: an application "
                      "template stands on a base, an OS template on a distribution");
  definition.packages = in.words("packages");
  check_packages(in, definition.packages);
  definition.commands = in.words("commands");
  for (Table& entry : in.tables("file")) definition.files.push_back(parse_file(entry, directory));
  if (auto strip = in.table("strip")) definition.strip = parse_strip(*strip);
  if (auto box = in.table("box")) definition.box = parse_box(*box);
  in.finish();
  if (definition.distribution && !definition.box.init)
    throw in.missing("box.init", "the command that a box of it starts with, such as [\"/sbin/init\"]");
  return definition;
}

}  // namespace

std::string Definition::at(unsigned line) const { return std::format("{}:{}", file, line); }

Definition parse_definition(std::string_view text, const std::string& file, const std::string& directory) {
  try {
    toml::table document = toml::parse(text, file);
    Table in(document, file, "");
    return parse_top(in, file, directory);
  } catch (const toml::parse_error& error) {
    throw base::error("{}:{}: {}", file, error.source().begin.line, error.description())
        .hint("a definition is written in TOML: text stands in quotes, lists in [ ]");
  }
}

Definition read_definition(const std::string& path) {
  auto text = base::read_file_if_exists(path, kMostText);
  if (!text)
    throw base::error("there is no definition {}", path)
        .hint("name a TOML file, such as those in templates/definitions");
  return parse_definition(*text, path, std::filesystem::absolute(path).parent_path());
}

}  // namespace templates
