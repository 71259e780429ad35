#include "templates/store.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <filesystem>

#include "base/error.h"
#include "base/hash.h"

namespace templates {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMostManifest = 8 << 20;
constexpr size_t kMostSignature = 64 << 10;

std::vector<std::string> names_in(const std::string& directory) {
  std::vector<std::string> names;
  std::error_code missing;
  for (const auto& entry : fs::directory_iterator(directory, missing))
    names.push_back(entry.path().filename());
  if (missing && missing != std::errc::no_such_file_or_directory)
    throw base::Error("cannot read " + directory, missing.value());
  std::ranges::sort(names);
  return names;
}

std::optional<uint64_t> size_of(const std::string& path) {
  struct stat status;
  if (::stat(path.c_str(), &status) == 0) return static_cast<uint64_t>(status.st_size);
  if (errno != ENOENT) throw base::sys_error("cannot look at {}", path);
  return std::nullopt;
}

base::Error damaged(const Layer& layer, const std::string& why, const std::string& path) {
  return base::error("layer {} is damaged: {}", layer.digest, why)
      .hint(std::format("remove {} and build or copy the template again", path));
}

}  // namespace

std::string digest_of_file(const std::string& path, const std::function<void(uint64_t)>& at) {
  base::Fd fd = base::open(path, O_RDONLY);
  base::Sha256 hash;
  std::vector<std::byte> piece(1 << 20);
  uint64_t done = 0;
  while (size_t got = base::read_full(fd.get(), piece)) {
    hash.add(std::span(piece).first(got));
    done += got;
    if (at) at(done);
    base::check_interrupt();
  }
  return "sha256:" + hash.hex();
}

Store::Store(std::string state_dir) : state_dir_(std::move(state_dir)) {}

std::vector<Store::Version> Store::versions() const {
  std::vector<Version> all;
  std::string directory = state_dir_ + "/templates";
  for (const std::string& name : names_in(directory)) {
    if (!valid_name(name)) continue;
    for (const std::string& file : names_in(directory + "/" + name)) {
      if (!file.ends_with(".json") || !valid_version(file.substr(0, file.size() - 5))) continue;
      all.push_back({.name = name, .version = file.substr(0, file.size() - 5)});
    }
  }
  return all;
}

std::optional<Store::Version> Store::newest(std::string_view name) const {
  std::optional<Version> newest;
  for (Version& version : versions())
    if (version.name == name) newest = std::move(version);
  return newest;
}

std::optional<Manifest> Store::find(std::string_view reference) const {
  if (!valid_reference(reference))
    throw base::error("{} is not a template", reference.empty() ? "''" : reference)
        .hint("templates are called NAME or NAME@YYYYMMDDnn, in lower case")
        .exit(base::Exit::kUsage);
  size_t at = reference.find('@');
  std::optional<Version> version;
  if (at == std::string_view::npos) {
    version = newest(reference);
  } else {
    version = {.name = std::string(reference.substr(0, at)),
               .version = std::string(reference.substr(at + 1))};
    if (!base::exists(manifest_path(*version))) version.reset();
  }
  if (!version) return std::nullopt;
  return load(*version).manifest;
}

Manifest Store::resolve(std::string_view reference) const {
  if (auto manifest = find(reference)) return *std::move(manifest);
  std::string here;
  for (const Version& version : versions()) here += (here.empty() ? "" : ", ") + version.reference();
  throw base::error("there is no template {} in {}", reference, state_dir_)
      .hint(here.empty() ? "build one with `drover template build FILE.toml`, or copy one from another node"
                         : "there are: " + here);
}

Store::Signed Store::load(const Version& version) const {
  std::string path = manifest_path(version);
  Signed found = {.manifest = {},
                  .json = base::read_file(path, kMostManifest),
                  .signature = base::read_file_if_exists(path + ".minisig", kMostSignature).value_or("")};
  if (found.signature.empty()) throw base::error("the manifest of {} has no signature", version.reference());
  keys().verify(found.json, found.signature, "the manifest of " + version.reference());
  found.manifest = Manifest::parse(found.json);
  if (found.manifest.reference() != version.reference())
    throw base::error("{} holds the manifest of {}", path, found.manifest.reference());
  return found;
}

std::string Store::manifest_path(const Version& version) const {
  return std::format("{}/templates/{}/{}.json", state_dir_, version.name, version.version);
}

base::Keys Store::keys() const { return base::Keys(state_dir_ + "/keys"); }

std::string Store::layer_path(std::string_view digest) const {
  if (!valid_digest(digest)) throw base::error("{} is not a layer's name", digest);
  return std::format("{}/layers/sha256/{}.erofs", state_dir_, digest.substr(7));
}

std::string Store::scratch_dir() const { return state_dir_ + "/layers/scratch"; }

bool Store::has_layer(const Layer& layer) const { return size_of(layer_path(layer.digest)) == layer.bytes; }

void Store::verify_layer(const Layer& layer, const std::function<void(uint64_t)>& at) const {
  std::string path = layer_path(layer.digest);
  std::optional<uint64_t> size = size_of(path);
  if (!size) throw base::error("layer {} is missing", layer.digest).hint("build or copy the template again");
  if (size != layer.bytes)
    throw damaged(layer, std::format("it has {} bytes instead of {}", *size, layer.bytes), path);
  if (std::string found = digest_of_file(path, at); found != layer.digest)
    throw damaged(layer, "its bytes are those of " + found, path);
}

Store::Hold Store::hold() const { return Hold(lock(LOCK_SH)); }

base::Fd Store::lock(int kind) const {
  base::make_directories(state_dir_ + "/templates");
  std::string path = state_dir_ + "/templates/.lock";
  base::Fd fd = base::open(path, O_RDWR | O_CREAT, 0600);
  while (::flock(fd.get(), kind) != 0) {
    if (errno != EINTR) throw base::sys_error("cannot lock {}", path);
    base::check_interrupt();
  }
  return fd;
}

void Store::adopt_layer(const std::string& file, const Layer& layer, const Hold&) {
  std::string path = layer_path(layer.digest), directory = fs::path(path).parent_path();
  base::make_directories(directory);
  if (::chmod(file.c_str(), 0444) != 0) throw base::sys_error("cannot set the mode of {}", file);
  base::fsync_path(file);
  if (::rename(file.c_str(), path.c_str()) != 0) throw base::sys_error("cannot move {} to {}", file, path);
  base::fsync_path(directory);
}

void Store::add_version(const Manifest& manifest, std::string_view json, std::string_view signature,
                        const Hold&) {
  for (const Layer& layer : manifest.layers)
    if (!has_layer(layer)) throw base::error("layer {} is missing", layer.digest);
  std::string path = manifest_path({.name = manifest.name, .version = manifest.version});
  if (auto there = base::read_file_if_exists(path, kMostManifest); there && *there != json)
    throw base::error("another {} is here already", manifest.reference())
        .hint("two machines built a template of this name: give one of them another name");
  std::string directory = fs::path(path).parent_path();
  base::make_directories(directory);
  base::fsync_path(state_dir_ + "/templates");
  base::write_file_atomically(path + ".minisig", signature);
  // Here the version begins to exist.
  base::write_file_atomically(path, json);
}

}  // namespace templates
