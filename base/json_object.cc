#include "base/json_object.h"

#include "base/progress.h"

namespace base {

using nlohmann::json;

json parse_json(std::string_view text, std::string_view document, size_t most) {
  if (text.size() > most) throw error("{} is malformed: it is larger than {}", document, human_size(most));
  json parsed = json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (parsed.is_discarded()) throw error("{} is malformed: it is not JSON", document);
  return parsed;
}

JsonObject::JsonObject(const json& object, std::string document, std::string where)
    : object_(object), document_(std::move(document)), where_(std::move(where)) {
  if (!object.is_object()) throw bad("", "an object");
}

std::string JsonObject::text(const std::string& key, size_t most) const {
  const json& value = at(key);
  if (!value.is_string()) throw bad(key, "a text");
  auto text = value.get<std::string>();
  if (text.size() > most || text.contains('\0')) throw bad(key, "a shorter text without zero bytes");
  return text;
}

uint64_t JsonObject::number(const std::string& key, uint64_t most) const {
  const json& value = at(key);
  if (!value.is_number_unsigned() || value.get<uint64_t>() > most)
    throw bad(key, std::format("a whole number up to {}", most));
  return value.get<uint64_t>();
}

bool JsonObject::flag_if_there(const std::string& key) const {
  auto found = object_.find(key);
  if (found == object_.end()) return false;
  if (!found->is_boolean()) throw bad(key, "true or false");
  return found->get<bool>();
}

const json& JsonObject::list(const std::string& key, size_t most) const {
  const json& value = at(key);
  if (!value.is_array() || value.size() > most)
    throw bad(key, std::format("a list of at most {} entries", most));
  return value;
}

const json& JsonObject::map(const std::string& key, size_t most) const {
  const json& value = at(key);
  if (!value.is_object() || value.size() > most)
    throw bad(key, std::format("an object with at most {} keys", most));
  return value;
}

const json& JsonObject::at(const std::string& key) const {
  auto found = object_.find(key);
  if (found == object_.end()) throw bad(key, "it to be there");
  return *found;
}

Error JsonObject::bad(const std::string& key, std::string_view expected) const {
  std::string name = path(key);
  return error("{} is malformed: {}: expected {}", document_, name.empty() ? "document" : name, expected);
}

}  // namespace base
