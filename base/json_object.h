#pragma once
#include <nlohmann/json.hpp>

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/error.h"

namespace base {

/// A JSON document that nobody vouches for; more than `most` bytes are not even looked at. `document` is
/// how messages name it: "the manifest is malformed: it is not JSON".
nlohmann::json parse_json(std::string_view text, std::string_view document, size_t most);

/// Reads one object of such a document. Everything throws an Error that names the key: "the manifest is
/// malformed: layers.bytes: expected a whole number up to 1099511627776".
class JsonObject {
 public:
  /// `where` is the object's own key; empty for the document itself.
  JsonObject(const nlohmann::json& object, std::string document, std::string where = {});

  [[nodiscard]] std::string text(const std::string& key, size_t most = 4096) const;
  [[nodiscard]] uint64_t number(const std::string& key, uint64_t most) const;
  /// False when the key is not there.
  [[nodiscard]] bool flag_if_there(const std::string& key) const;
  [[nodiscard]] const nlohmann::json& list(const std::string& key, size_t most) const;
  /// What an object's keys are the program's own choice, `most` of them.
  [[nodiscard]] const nlohmann::json& map(const std::string& key, size_t most) const;
  /// The object below `key`, or one entry of the list below it.
  [[nodiscard]] JsonObject object(const std::string& key) const { return entry(key, at(key)); }
  [[nodiscard]] JsonObject entry(const std::string& key, const nlohmann::json& value) const {
    return {value, document_, path(key)};
  }
  [[nodiscard]] const nlohmann::json& at(const std::string& key) const;

  /// "…: KEY: expected EXPECTED", to be thrown; without a key it is the object that is wrong.
  [[nodiscard]] Error bad(const std::string& key, std::string_view expected) const;

 private:
  [[nodiscard]] std::string path(const std::string& key) const {
    return where_ + (where_.empty() || key.empty() ? "" : ".") + key;
  }
  const nlohmann::json& object_;
  std::string document_, where_;
};

}  // namespace base
