#include "image/manifest.h"

#include <algorithm>
#include <array>

#include "base/error.h"
#include "base/fd.h"
#include "base/hash.h"
#include "base/json_object.h"
#include "base/progress.h"
#include "image/disk.h"
#include "image/part_file.h"
#include "image/verity.h"

namespace image {
namespace {

using nlohmann::json;

constexpr std::string_view kFormat = "drover-image-1";
constexpr size_t kMostText = 8 << 20;
constexpr size_t kMostSignature = 4096;
constexpr size_t kMostPackages = 20'000;
constexpr size_t kMostInputs = 20'000;
constexpr size_t kMostWord = 256;
constexpr uint64_t kMostBytes = uint64_t{1} << 40;  // of a part, and of a slot
constexpr uint64_t kMostClock = 253'402'300'799;    // the end of the year 9999

constexpr std::string_view kDigits = "0123456789", kHex = "0123456789abcdef";
constexpr std::string_view kLowers = "abcdefghijklmnopqrstuvwxyz0123456789";
constexpr std::string_view kLetters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";

constexpr auto kParts = std::to_array<PartKind>({
    {.name = "boot.cfg", .needed = true},
    {.name = "boot.ipxe", .needed = false},
    {.name = "contents.json", .needed = false},
    {.name = "disk.img", .needed = false},
    {.name = "initrd", .needed = true},
    {.name = "loader/BOOTX64.EFI", .needed = false},
    {.name = "loader/boot.img", .needed = false},
    {.name = "loader/core.img", .needed = false},
    {.name = "loader/grub.cfg", .needed = false},
    {.name = "loader/ipxe.efi", .needed = false},
    {.name = "loader/ipxe.lkrn", .needed = false},
    {.name = "root.img", .needed = true},
    {.name = "sbom.spdx.json", .needed = true},
    {.name = "vmlinuz", .needed = true},
});

bool all_of(std::string_view text, std::string_view allowed) {
  return text.find_first_not_of(allowed) == std::string_view::npos;
}

/// 1 to `most` characters: the first of `letters`, the others also of `marks`.
bool is_word(std::string_view text, std::string_view letters, std::string_view marks, size_t most) {
  return !text.empty() && text.size() <= most && all_of(text.substr(0, 1), letters) &&
         all_of(text, std::string(letters) + std::string(marks));
}

bool is_sha256(std::string_view text) { return text.size() == 64 && all_of(text, kHex); }

bool is_uuid(std::string_view text) {
  if (text.size() != 36) return false;
  for (size_t i = 0; i < text.size(); ++i) {
    bool dash = i == 8 || i == 13 || i == 18 || i == 23;
    if (dash ? text[i] != '-' : !kHex.contains(text[i])) return false;
  }
  return true;
}

std::string word(const base::JsonObject& in, const std::string& key, std::string_view letters,
                 std::string_view marks, size_t most = kMostWord) {
  std::string text = in.text(key);
  if (!is_word(text, letters, marks, most))
    throw in.bad(key, std::format("1 to {} letters or digits{}{}, beginning with a letter or digit", most,
                                  marks.empty() ? "" : " or any of ", marks));
  return text;
}

std::string sha256(const base::JsonObject& in, const std::string& key) {
  std::string text = in.text(key);
  if (!is_sha256(text)) throw in.bad(key, "64 hex digits");
  return text;
}

Part parse_part(const base::JsonObject& in) {
  Part part = {
      .name = in.text("name"), .bytes = in.number("bytes", kMostBytes), .sha256 = sha256(in, "sha256")};
  if (std::ranges::find(kParts, part.name, &PartKind::name) == kParts.end())
    throw in.bad("name", "the name of a part that an image can have, not " +
                             json(part.name.substr(0, 256))
                                 .dump(-1, ' ', /*ensure_ascii=*/true, json::error_handler_t::replace));
  return part;
}

std::vector<Part> parse_parts(const base::JsonObject& in) {
  std::vector<Part> parts;
  for (const json& part : in.list("parts", kParts.size()))
    parts.push_back(parse_part(in.entry("parts", part)));
  if (!std::ranges::is_sorted(parts, std::ranges::less_equal(), &Part::name))
    throw in.bad("parts", "each part once, sorted by name");
  for (const PartKind& kind : kParts)
    if (kind.needed && !std::ranges::contains(parts, kind.name, &Part::name))
      throw in.bad("parts", std::format("{} among them", kind.name));
  return parts;
}

Root parse_root(const base::JsonObject& in) {
  Root root = {.data_bytes = in.number("data_bytes", kMostBytes),
               .root_hash = sha256(in, "root_hash"),
               .salt = in.text("salt"),
               .uuid = in.text("uuid")};
  if (root.data_bytes == 0 || root.data_bytes % kVerityBlock != 0)
    throw in.bad("data_bytes", std::format("a multiple of {}", kVerityBlock));
  std::optional<std::string> salt = base::from_hex(root.salt);
  if (!salt || salt->empty() || salt->size() > kMostSalt)
    throw in.bad("salt", std::format("the hex digits of 1 to {} bytes", kMostSalt));
  if (!is_uuid(root.uuid)) throw in.bad("uuid", "8-4-4-4-12 hex digits");
  return root;
}

DiskSizes parse_disk(const base::JsonObject& in) {
  return {.esp_bytes = in.number("esp_bytes", kMostBytes),
          .data_bytes = in.number("data_bytes", kMostBytes),
          .data_file_system = in.text("data_file_system", kMostWord)};
}

Package parse_package(const base::JsonObject& in) {
  return {.name = word(in, "name", kLowers, "+.-"),
          .version = word(in, "version", kLetters, ".+-~:"),
          .architecture = word(in, "architecture", kLowers, "-", 64),
          .source = word(in, "source", kLowers, "+.-")};
}

auto order(const Package& package) { return std::tie(package.name, package.architecture); }

std::vector<Package> parse_packages(const base::JsonObject& in) {
  std::vector<Package> packages;
  for (const json& package : in.list("packages", kMostPackages))
    packages.push_back(parse_package(in.entry("packages", package)));
  if (!std::ranges::is_sorted(packages, std::ranges::less_equal(), order))
    throw in.bad("packages", "each package once, sorted by name and architecture");
  return packages;
}

std::map<std::string, std::string> parse_inputs(const base::JsonObject& in) {
  std::map<std::string, std::string> inputs;
  for (const auto& [name, hash] : in.map("inputs", kMostInputs).items()) {
    bool printable = std::ranges::all_of(name, [](char c) { return c >= ' ' && c <= '~'; });
    if (name.empty() || name.size() > kMostWord || !printable)
      throw in.bad("inputs", std::format("keys of 1 to {} printable characters", kMostWord));
    if (!hash.is_string() || !is_sha256(hash.get_ref<const std::string&>()))
      throw in.bad("inputs." + name, "64 hex digits");
    inputs[name] = hash;
  }
  return inputs;
}

/// What holds between the keys.
void check(const Manifest& manifest, const base::JsonObject& in) {
  const Part& root = manifest.at("root.img");
  uint64_t bytes = manifest.root.data_bytes + verity_bytes(manifest.root.data_bytes);
  if (root.bytes != bytes)
    throw in.bad("parts", std::format("root.img to have {} bytes: data_bytes and their hash area", bytes));
  if (manifest.slot_bytes < root.bytes) throw in.bad("slot_bytes", "what root.img fits into");
  try {
    plan_partitions(manifest.layout());
  } catch (const base::Error& error) {
    throw in.bad("disk", "what a disk can have, but " + error.message());
  }
}

json root_json(const Root& root) {
  return {{"data_bytes", root.data_bytes},
          {"root_hash", root.root_hash},
          {"salt", root.salt},
          {"uuid", root.uuid}};
}

json disk_json(const DiskSizes& disk) {
  return {{"esp_bytes", disk.esp_bytes},
          {"data_bytes", disk.data_bytes},
          {"data_file_system", disk.data_file_system}};
}

}  // namespace

std::span<const PartKind> part_kinds() { return kParts; }

DiskLayout Manifest::layout() const {
  return {.slot_bytes = slot_bytes,
          .esp_bytes = disk.esp_bytes,
          .data_bytes = disk.data_bytes,
          .data_file_system = disk.data_file_system,
          .seed = definition_hash,
          .clock = clock};
}

const Part* Manifest::find(std::string_view part) const {
  auto found = std::ranges::find(parts, part, &Part::name);
  return found == parts.end() ? nullptr : &*found;
}

const Part& Manifest::at(std::string_view part) const {
  if (const Part* found = find(part)) return *found;
  throw base::error("{} has no {}", reference(), part);
}

Manifest Manifest::parse(std::string_view text) {
  json document = base::parse_json(text, "the manifest", kMostText);
  base::JsonObject in(document, "the manifest");
  if (std::string format = in.text("format"); format != kFormat)
    throw base::error("the manifest has the format {}, not {}", json(format).dump(), kFormat)
        .hint("a newer drover made it: update this one");
  Manifest manifest = {.name = word(in, "name", kLowers, ".+-", 63),
                       .version = in.text("version"),
                       .suite = word(in, "suite", kLowers, ".-", 63),
                       .architecture = word(in, "architecture", kLowers, "-", 63),
                       .clock = static_cast<int64_t>(in.number("clock", kMostClock)),
                       .definition_hash = sha256(in, "definition_hash"),
                       .kernel_version = word(in, "kernel_version", kLetters, ".+-~_", 63),
                       .drover_version = word(in, "drover_version", kLetters, ".+-~", 63),
                       .parts = parse_parts(in),
                       .root = parse_root(in.object("root")),
                       .slot_bytes = in.number("slot_bytes", kMostBytes),
                       .disk = parse_disk(in.object("disk")),
                       .packages = parse_packages(in),
                       .inputs = parse_inputs(in),
                       .node_memory = in.number("node_memory", kMostBytes)};
  if (manifest.version.size() != 10 || !all_of(manifest.version, kDigits))
    throw in.bad("version", "YYYYMMDDnn");
  check(manifest, in);
  return manifest;
}

std::string Manifest::render() const {
  json parts_json = json::array(), packages_json = json::array();
  std::vector<Part> sorted_parts = parts;
  std::ranges::sort(sorted_parts, {}, &Part::name);
  for (const Part& part : sorted_parts)
    parts_json.push_back({{"name", part.name}, {"bytes", part.bytes}, {"sha256", part.sha256}});
  std::vector<Package> sorted_packages = packages;
  std::ranges::sort(sorted_packages, {}, order);
  for (const Package& package : sorted_packages)
    packages_json.push_back({{"name", package.name},
                             {"version", package.version},
                             {"architecture", package.architecture},
                             {"source", package.source}});
  json document = {{"format", kFormat},
                   {"name", name},
                   {"version", version},
                   {"suite", suite},
                   {"architecture", architecture},
                   {"clock", clock},
                   {"definition_hash", definition_hash},
                   {"kernel_version", kernel_version},
                   {"drover_version", drover_version},
                   {"parts", parts_json},
                   {"root", root_json(root)},
                   {"slot_bytes", slot_bytes},
                   {"disk", disk_json(disk)},
                   {"packages", packages_json},
                   {"inputs", json(inputs)},
                   {"node_memory", node_memory}};
  return document.dump(1) + "\n";
}

SignedManifest check_manifest(std::string text, std::string signature, const base::Keys& keys,
                              const std::string& what) {
  keys.verify(text, signature, what);
  Manifest manifest = Manifest::parse(text);
  return {.text = std::move(text), .signature = std::move(signature), .manifest = std::move(manifest)};
}

SignedManifest read_signed(const std::string& directory, const base::Keys& keys) {
  auto read = [&](std::string_view name, size_t most) {
    std::string text(most + 1, '\0');
    base::Fd fd = open_part(directory, name);
    text.resize(base::read_full(fd.get(), std::as_writable_bytes(std::span(text))));
    if (text.size() > most)
      throw base::error("{}/{} is larger than {}", directory, name, base::human_size(most));
    return text;
  };
  return check_manifest(read(kManifestFile, kMostText), read(kSignatureFile, kMostSignature), keys,
                        std::format("{}/{}", directory, kManifestFile));
}

Manifest read_image(const std::string& directory, const base::Keys& keys) {
  return read_signed(directory, keys).manifest;
}

void write_manifest(const std::string& directory, const Manifest& manifest, const base::Keys& keys) {
  std::string text = manifest.render();
  Manifest::parse(text);  // what nobody could read is not signed
  std::string signature = keys.sign(text, "drover image " + manifest.reference());
  base::write_file_atomically(std::format("{}/{}", directory, kSignatureFile), signature);
  base::write_file_atomically(std::format("{}/{}", directory, kManifestFile), text);
}

}  // namespace image
