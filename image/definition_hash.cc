#include "image/definition_hash.h"

#include <format>

#include "base/hash.h"

namespace image {
namespace {

/// "KEY LENGTH:VALUE\n" for each value, and "KEY COUNT\n" before the parts of a list: nothing that stands in
/// a value can be taken for something else. docs/formats/image-definition.md has the order.
class Facts {
 public:
  void add(std::string_view key, std::string_view value) {
    text_ += std::format("{} {}:{}\n", key, value.size(), value);
  }
  void add(std::string_view key, uint64_t value) { add(key, std::to_string(value)); }
  void add(std::string_view key, const std::vector<std::string>& values) {
    count(key, values.size());
    for (const std::string& value : values) add(key, value);
  }
  void add(std::string_view key, const std::vector<base::Word>& words) { add(key, base::texts_of(words)); }
  void count(std::string_view key, size_t parts) { text_ += std::format("{} {}\n", key, parts); }
  [[nodiscard]] const std::string& text() const { return text_; }

 private:
  std::string text_;
};

void add_file(Facts& facts, const Definition::File& file) {
  facts.add("path", file.path);
  facts.add("kind", static_cast<uint64_t>(file.kind));
  facts.add("content", file.content);
  facts.add("mode", file.mode);
  facts.add("owner", file.owner);
  facts.add("group", file.group);
  facts.add("early", static_cast<uint64_t>(file.early));
}

void add_user(Facts& facts, const Definition::User& user) {
  facts.add("user", user.name);
  facts.add("uid", user.uid ? std::to_string(*user.uid) : "");
  facts.add("groups", user.groups);
  facts.add("shell", user.shell);
  facts.add("ssh_keys", user.ssh_keys);
}

void add_health(Facts& facts, const Definition::Health& health) {
  facts.add("health", health.name);
  facts.add("command", health.command);
  facts.add("seconds", health.seconds);
}

}  // namespace

std::string hash_of(const Definition& definition) {
  Facts facts;
  facts.add("format", 1);
  facts.add("name", definition.name);
  facts.add("description", definition.description);
  facts.add("suite", definition.suite);
  facts.add("components", definition.mirror.components);
  facts.add("packages", definition.packages);
  facts.add("hardware", definition.hardware);
  facts.add("kernel.package", definition.kernel.package);
  facts.add("kernel.command_line", definition.kernel.command_line);
  facts.add("kernel.console", definition.kernel.console);
  facts.add("strip.documentation", static_cast<uint64_t>(definition.strip.documentation));
  facts.add("strip.locales", static_cast<uint64_t>(definition.strip.locales));
  facts.add("strip.caches", static_cast<uint64_t>(definition.strip.caches));
  facts.add("strip.keep", definition.strip.keep);
  facts.add("strip.drop", definition.strip.drop);
  facts.add("root.compression", definition.root.compression);
  facts.add("root.cluster", definition.root.cluster);
  facts.add("slots.bytes", definition.slots.bytes.value_or(0));
  facts.add("slots.factor", definition.slots.factor);
  facts.add("data.file_system", definition.data.file_system);
  facts.add("data.bytes", definition.data.bytes);
  facts.count("files", definition.files.size());
  for (const Definition::File& file : definition.files) add_file(facts, file);
  facts.count("users", definition.users.size());
  for (const Definition::User& user : definition.users) add_user(facts, user);
  facts.count("health", definition.health.size());
  for (const Definition::Health& health : definition.health) add_health(facts, health);
  return base::sha256_hex(facts.text());
}

}  // namespace image
