#include "templates/manifest.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <set>

#include "base/error.h"
#include "base/json_object.h"

namespace templates {
namespace {

using nlohmann::json;

constexpr std::string_view kFormat = "drover-template-1";
constexpr size_t kMostText = 8 << 20;
constexpr size_t kMostLayers = 16;
constexpr size_t kMostPackages = 20'000;
constexpr uint64_t kMostBytes = uint64_t{1} << 40;  // of a layer, and of its tree

bool all_of(std::string_view text, std::string_view allowed) {
  return text.find_first_not_of(allowed) == std::string_view::npos;
}

Start parse_start(const base::JsonObject& in) {
  Start start;
  for (const json& word : in.list("init", 256)) {
    if (!word.is_string() || word.get<std::string>().contains('\0')) throw in.bad("init", "texts");
    start.init.push_back(word);
  }
  const json& env = in.map("env", 256);
  for (const auto& [name, value] : env.items()) {
    if (!value.is_string()) throw in.bad("env." + name, "a text");
    start.env[name] = value;
  }
  start.working_dir = in.text("working_dir");
  start.stop_signal = in.text("stop_signal");
  start.stop_seconds = static_cast<unsigned>(in.number("stop_seconds", 3600));
  start.control_groups = in.flag_if_there("control_groups");
  if (std::string problem = problem_with(start); !problem.empty()) throw in.bad("", problem);
  return start;
}

Layer parse_layer(const base::JsonObject& in) {
  Layer layer = {.digest = in.text("digest"), .bytes = in.number("bytes", kMostBytes)};
  if (!valid_digest(layer.digest)) throw in.bad("digest", "sha256: and 64 hex digits");
  return layer;
}

Package parse_package(const base::JsonObject& in) {
  return {.name = in.text("name", 256),
          .version = in.text("version", 256),
          .architecture = in.text("architecture", 64)};
}

json start_json(const Start& start) {
  json out = {{"init", start.init},
              {"env", start.env},
              {"working_dir", start.working_dir},
              {"stop_signal", start.stop_signal},
              {"stop_seconds", start.stop_seconds}};
  if (start.control_groups) out["control_groups"] = true;
  return out;
}

}  // namespace

bool valid_name(std::string_view name) {
  constexpr std::string_view kFirst = "abcdefghijklmnopqrstuvwxyz0123456789";
  constexpr std::string_view kRest = "abcdefghijklmnopqrstuvwxyz0123456789.+-";
  return !name.empty() && name.size() <= 63 && all_of(name.substr(0, 1), kFirst) && all_of(name, kRest);
}

bool valid_version(std::string_view version) { return version.size() == 10 && all_of(version, "0123456789"); }

bool valid_digest(std::string_view digest) {
  return digest.starts_with("sha256:") && digest.size() == 7 + 64 &&
         all_of(digest.substr(7), "0123456789abcdef");
}

bool valid_reference(std::string_view reference) {
  size_t at = reference.find('@');
  return valid_name(reference.substr(0, at)) &&
         (at == std::string_view::npos || valid_version(reference.substr(at + 1)));
}

std::string problem_with(const Start& start) {
  constexpr std::array kSignals = {"SIGHUP",  "SIGINT", "SIGQUIT",  "SIGUSR1",    "SIGUSR2",
                                   "SIGTERM", "SIGPWR", "SIGWINCH", "SIGRTMIN+3", "SIGRTMIN+4"};
  if (start.init.empty() || !start.init[0].starts_with('/'))
    return "init to begin with the absolute path of a program";
  for (const auto& [name, value] : start.env)
    if (name.empty() || name.contains('=') || name.contains('\0') || value.contains('\0'))
      return std::format("no variable called {} in env", json(name).dump());
  if (!start.working_dir.starts_with('/')) return "working_dir to be an absolute path";
  if (std::ranges::find(kSignals, start.stop_signal) == kSignals.end())
    return "stop_signal to be one of SIGTERM, SIGINT, SIGQUIT, SIGHUP, SIGPWR, SIGUSR1, SIGUSR2, SIGWINCH, "
           "SIGRTMIN+3, SIGRTMIN+4";
  if (start.stop_seconds == 0 || start.stop_seconds > 3600) return "stop_seconds from 1 to 3600";
  return {};
}

bool Manifest::same_content(const Manifest& other) const {
  Manifest renamed = other;
  renamed.version = version;
  return *this == renamed;
}

Manifest Manifest::parse(std::string_view text) {
  json document = base::parse_json(text, "the manifest", kMostText);
  base::JsonObject in(document, "the manifest");
  if (std::string format = in.text("format"); format != kFormat)
    throw base::error("the manifest has the format {}, not {}", json(format).dump(), kFormat)
        .hint("a newer drover made it: update this one");
  Manifest manifest = {.name = in.text("name"),
                       .version = in.text("version"),
                       .base = in.text("base"),
                       .description = in.text("description"),
                       .distribution = in.text("distribution"),
                       .architecture = in.text("architecture"),
                       .fingerprint = in.text("fingerprint"),
                       .clock = static_cast<int64_t>(in.number("clock", 1'000'000'000'000)),
                       .layers = {},
                       .packages = {},
                       .tree_bytes = in.number("tree_bytes", kMostBytes),
                       .start = parse_start(in.object("box"))};
  if (!valid_name(manifest.name)) throw in.bad("name", "a template's name");
  if (!valid_version(manifest.version)) throw in.bad("version", "YYYYMMDDnn");
  if (!manifest.base.empty() && !valid_reference(manifest.base))
    throw in.bad("base", "NAME@VERSION or nothing");
  if (!valid_digest(manifest.fingerprint)) throw in.bad("fingerprint", "sha256: and 64 hex digits");
  std::set<std::string> seen;
  for (const json& layer : in.list("layers", kMostLayers)) {
    manifest.layers.push_back(parse_layer(in.entry("layers", layer)));
    if (!seen.insert(manifest.layers.back().digest).second) throw in.bad("layers", "each layer once");
  }
  if (manifest.layers.empty()) throw in.bad("layers", "at least one");
  for (const json& package : in.list("packages", kMostPackages))
    manifest.packages.push_back(parse_package(in.entry("packages", package)));
  return manifest;
}

std::string Manifest::render() const {
  json packages_json = json::array(), layers_json = json::array();
  for (const Package& package : packages)
    packages_json.push_back(
        {{"name", package.name}, {"version", package.version}, {"architecture", package.architecture}});
  for (const Layer& layer : layers) layers_json.push_back({{"digest", layer.digest}, {"bytes", layer.bytes}});
  json document = {{"format", kFormat},
                   {"name", name},
                   {"version", version},
                   {"base", base},
                   {"description", description},
                   {"distribution", distribution},
                   {"architecture", architecture},
                   {"fingerprint", fingerprint},
                   {"clock", clock},
                   {"layers", layers_json},
                   {"tree_bytes", tree_bytes},
                   {"box", start_json(start)},
                   {"packages", packages_json}};
  return document.dump(1) + "\n";
}

}  // namespace templates
