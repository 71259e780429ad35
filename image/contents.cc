#include "image/contents.h"

#include <nlohmann/json.hpp>
#include <sys/stat.h>

#include <filesystem>
#include <set>

#include "base/error.h"
#include "rootfs/erofs.h"

namespace image {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr int kLevels = 3;

std::string top_of(const std::string& file) {
  std::string top;
  int level = 0;
  for (const auto& part : fs::path(file).parent_path().relative_path()) {
    if (level++ == kLevels) break;
    top += "/" + part.string();
  }
  return top.empty() ? "/" : top;
}

/// dpkg's lists may still say /lib for /usr/lib.
const std::string* owner_of(const Installed& installed, const std::string& file) {
  auto found = installed.owner.find(file);
  if (found == installed.owner.end() && file.starts_with("/usr/"))
    found = installed.owner.find(file.substr(4));
  return found == installed.owner.end() ? nullptr : &found->second;
}

uint64_t number(const json& value) {
  if (!value.is_number_unsigned()) throw base::error("contents.json is damaged: {} is no size", value.dump());
  return value.get<uint64_t>();
}

std::map<std::string, uint64_t> numbers(const json& object) {
  std::map<std::string, uint64_t> found;
  for (const auto& [name, value] : object.items()) found[name] = number(value);
  return found;
}

}  // namespace

Contents contents_of(const std::string& tree, const Installed& installed,
                     std::map<std::string, Removed> removed) {
  Contents contents;
  contents.removed = std::move(removed);
  std::set<ino_t> linked;  // seen under one of their names
  for (const std::string& path : rootfs::paths_below(tree)) {
    struct stat status;
    if (::lstat(path.c_str(), &status) != 0) throw base::sys_error("cannot look at {}", path);
    if (!S_ISREG(status.st_mode)) continue;
    std::string file = path.substr(tree.size());
    if (status.st_nlink > 1 && !linked.insert(status.st_ino).second) continue;
    auto bytes = static_cast<uint64_t>(status.st_size);
    const std::string* owner = owner_of(installed, file);
    contents.packages[owner == nullptr ? "-" : *owner] += bytes;
    contents.directories[top_of(file)] += bytes;
    contents.bytes += bytes;
  }
  return contents;
}

std::string Contents::render() const {
  json removed_json = json::object();
  for (const auto& [rule, count] : removed)
    removed_json[rule] = {{"files", count.files}, {"bytes", count.bytes}};
  json all = {{"format", 1},
              {"bytes", bytes},
              {"packages", packages},
              {"directories", directories},
              {"removed", removed_json}};
  return all.dump(1) + "\n";
}

Contents Contents::parse(const std::string& text) {
  try {
    json all = json::parse(text);
    if (all.at("format").get<int>() != 1)
      throw base::error("contents.json has format {}, expected 1", all.at("format").dump());
    Contents contents;
    contents.bytes = number(all.at("bytes"));
    contents.packages = numbers(all.at("packages"));
    contents.directories = numbers(all.at("directories"));
    for (const auto& [rule, count] : all.at("removed").items())
      contents.removed[rule] = {.files = number(count.at("files")), .bytes = number(count.at("bytes"))};
    return contents;
  } catch (const json::exception& error) {
    throw base::error("contents.json is damaged: {}", error.what());
  }
}

}  // namespace image
