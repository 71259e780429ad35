#include "box/config.h"

#include <nlohmann/json.hpp>

#include <algorithm>

#include "base/error.h"

namespace box {
namespace {

using Json = nlohmann::ordered_json;

bool is_alnum(char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'); }

template <class T>
T field(const Json& json, const char* key) {
  try {
    return json.at(key).get<T>();
  } catch (const nlohmann::json::exception& e) {
    throw base::error("key '{}' is missing or of the wrong type", key);
  }
}

std::vector<std::string> texts(const std::vector<Address>& addresses) {
  std::vector<std::string> out;
  for (const auto& a : addresses) out.push_back(a.to_string());
  return out;
}

std::vector<Address> addresses_from(const Json& json, const char* key) {
  std::vector<Address> out;
  for (const auto& text : field<std::vector<std::string>>(json, key)) out.push_back(Address::parse(text));
  return out;
}

void check(const Config& c) {
  check_name(c.name);
  if (!is_hex_id(c.uuid)) throw base::error("key 'uuid' is not 32 hex digits");
  if (!c.last_move.empty() && !is_hex_id(c.last_move))
    throw base::error("key 'last_move' is not 32 hex digits");
  auto at = c.template_ref.find('@');
  if (at == std::string::npos || !templates::valid_name(c.template_ref.substr(0, at)) ||
      !templates::valid_version(c.template_ref.substr(at + 1)))
    throw base::error("key 'template' is not name@version");
  // overlayfs takes at most 500 lower layers.
  if (c.layers.empty() || c.layers.size() > 500) throw base::error("key 'layers' needs 1 to 500 entries");
  for (const auto& layer : c.layers)
    if (!templates::valid_digest(layer.digest))
      throw base::error("key 'layers' holds '{}', which names no layer", layer.digest);
  if (c.start.init.empty() || !c.start.init.front().starts_with('/'))
    throw base::error("key 'init' does not begin with an absolute path");
  if (c.image_bytes != 0 &&
      (c.image_bytes < kLeastImage || c.image_bytes > kMostImage || c.image_bytes % 4096 != 0))
    throw base::error("key 'image_bytes' is no multiple of 4096 between {} and {}", kLeastImage, kMostImage);
  if (c.bridge.empty() || c.bridge.size() > 15 || c.bridge.find_first_of("/ \n") != std::string::npos)
    throw base::error("key 'bridge' is no interface name");
  if (c.addresses.empty() || c.addresses.size() > 64)
    throw base::error("key 'addresses' needs 1 to 64 entries");
  if (c.id_base < kIdCount || c.id_base % kIdCount != 0 || c.id_base > 0xF0000000)
    throw base::error("key 'id_base' is no multiple of {} between {} and {}", kIdCount, kIdCount, 0xF0000000);
  if (c.epoch == 0 || c.epoch > kMostEpoch)
    throw base::error("key 'epoch' is not between 1 and {}", kMostEpoch);
}

}  // namespace

bool is_hex_id(std::string_view id) {
  return id.size() == 32 &&
         std::ranges::all_of(id, [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

void check_name(std::string_view name) {
  bool good = !name.empty() && name.size() <= 63 && is_alnum(name.front()) && is_alnum(name.back()) &&
              std::ranges::all_of(name, [](char c) { return is_alnum(c) || c == '-'; });
  if (!good)
    throw base::error("'{}' cannot be a box's name", name)
        .hint("1 to 63 of a-z, 0-9 and '-', with '-' neither first nor last: it is also the box's host name");
}

Config Config::parse(std::string_view text) {
  Json json = Json::parse(text, nullptr, false);
  if (!json.is_object()) throw base::error("a box's configuration is one JSON object, and this is none");
  Config c;
  c.name = field<std::string>(json, "name");
  c.uuid = field<std::string>(json, "uuid");
  c.template_ref = field<std::string>(json, "template");
  for (const auto& layer : field<std::vector<Json>>(json, "layers"))
    c.layers.push_back({field<std::string>(layer, "digest"), field<uint64_t>(layer, "bytes")});
  const Json start = field<Json>(json, "start");
  c.start.init = field<std::vector<std::string>>(start, "init");
  c.start.env = field<std::map<std::string, std::string>>(start, "env");
  c.start.working_dir = field<std::string>(start, "working_dir");
  c.start.stop_signal = field<std::string>(start, "stop_signal");
  c.start.stop_seconds = field<unsigned>(start, "stop_seconds");
  if (start.contains("control_groups")) c.start.control_groups = field<bool>(start, "control_groups");
  if (json.contains("image_bytes")) c.image_bytes = field<uint64_t>(json, "image_bytes");
  c.bridge = field<std::string>(json, "bridge");
  c.mac = Mac::parse(field<std::string>(json, "mac"));
  c.addresses = addresses_from(json, "addresses");
  c.gateways = addresses_from(json, "gateways");
  c.id_base = field<uint32_t>(json, "id_base");
  c.epoch = field<uint64_t>(json, "epoch");
  c.created = field<int64_t>(json, "created");
  c.last_move = field<std::string>(json, "last_move");
  check(c);
  return c;
}

std::string Config::render() const {
  Json layers_json = Json::array();
  for (const auto& layer : layers) layers_json.push_back({{"digest", layer.digest}, {"bytes", layer.bytes}});
  Json start_json = {{"init", start.init},
                     {"env", start.env},
                     {"working_dir", start.working_dir},
                     {"stop_signal", start.stop_signal},
                     {"stop_seconds", start.stop_seconds}};
  if (start.control_groups) start_json["control_groups"] = true;
  Json json = {{"name", name},
               {"uuid", uuid},
               {"template", template_ref},
               {"layers", layers_json},
               {"start", start_json},
               {"bridge", bridge},
               {"mac", mac.to_string()},
               {"addresses", texts(addresses)},
               {"gateways", texts(gateways)},
               {"id_base", id_base},
               {"epoch", epoch},
               {"created", created},
               {"last_move", last_move}};
  if (image_bytes != 0) json["image_bytes"] = image_bytes;
  return json.dump(2) + "\n";
}

}  // namespace box
