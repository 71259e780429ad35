#include "image/lock.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <filesystem>

#include "base/error.h"
#include "base/fd.h"

namespace image {
namespace {

using nlohmann::json;

base::Error bad(const std::string& path, const std::string& what) {
  return base::error("{}: {}", path, what).hint("remove the file, and make it anew with --update-lock");
}

/// The number of the line that has the byte.
size_t line_at(std::string_view text, size_t byte) {
  return 1 + static_cast<size_t>(std::ranges::count(text.substr(0, byte), '\n'));
}

/// Where a text of an image's list stands: "image.lock:7"; without a number where it is written in another
/// way than ours.
std::string place_of(const std::string& path, const std::string& image, const json& line) {
  std::string text = base::read_file(path);
  size_t list = text.find(json(image).dump()), at = text.find(line.dump(), list);
  if (!line.is_string() || list == std::string::npos || at == std::string::npos) return path;
  return std::format("{}:{}", path, line_at(text, at));
}

json read_all(const std::string& path) {
  auto text = base::read_file_if_exists(path);
  if (!text) return json::object();
  json all;
  try {
    all = json::parse(*text);
  } catch (const json::parse_error& error) {
    throw bad(std::format("{}:{}", path, line_at(*text, error.byte)), "this is not JSON");
  }
  if (!all.is_object()) throw bad(path, "expected a JSON object with a list of packages for each image");
  return all;
}

/// "criu=4.2.1-1 amd64", as in the file.
Package parse_line(const std::string& path, const std::string& image, const json& line) {
  std::string text = line.is_string() ? line.get<std::string>() : "";
  size_t equals = text.find('='), space = text.find(' ');
  if (equals == std::string::npos || space == std::string::npos || equals > space)
    throw bad(place_of(path, image, line),
              "expected packages such as \"bash=5.2.37-2 amd64\", found " + line.dump());
  Package package = {.name = text.substr(0, equals),
                     .version = text.substr(equals + 1, space - equals - 1),
                     .architecture = text.substr(space + 1)};
  if (!rootfs::valid_package(text.substr(0, space)) ||
      !rootfs::only(package.architecture, rootfs::kLowerDigits))
    throw bad(place_of(path, image, line),
              "expected a package, its version and its architecture, found " + line.dump());
  return package;
}

}  // namespace

std::string lock_path(const std::string& definition_file) {
  return std::filesystem::absolute(definition_file).parent_path() / "image.lock";
}

std::optional<std::vector<Package>> read_lock(const std::string& path, const std::string& image) {
  json all = read_all(path);
  if (!all.contains(image)) return std::nullopt;
  if (!all[image].is_array()) throw bad(path, "expected a list of packages for " + image);
  std::vector<Package> packages;
  for (const json& line : all[image]) packages.push_back(parse_line(path, image, line));
  return packages;
}

void write_lock(const std::string& path, const std::string& image, const std::vector<Package>& packages) {
  json all = read_all(path);
  json lines = json::array();
  for (const Package& package : packages)
    lines.push_back(package.name + "=" + package.version + " " + package.architecture);
  all[image] = lines;
  base::write_file_atomically(path, all.dump(1) + "\n");
}

}  // namespace image
