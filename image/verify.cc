#include "image/verify.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <filesystem>

#include "base/error.h"
#include "base/hash.h"
#include "image/part_file.h"
#include "image/verity.h"

namespace image {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMostStrays = 20;  // are named: more tell nothing new
constexpr std::string_view kRoot = "root.img";

std::string problem_of_part(const std::string& directory, const Part& part,
                            const std::function<void(uint64_t)>& read) {
  base::Fd fd = open_part(directory, part.name);
  if (uint64_t bytes = size_of(fd.get(), part.name); bytes != part.bytes)
    return std::format("has {} bytes, not {}", bytes, part.bytes);
  base::Sha256 hash;
  read_pieces(fd.get(), part.bytes, part.name, [&](std::span<const std::byte> piece) {
    hash.add(piece);
    read(piece.size());
  });
  if (hash.hex() != part.sha256) return "is damaged: its bytes do not give the SHA-256 of the manifest";
  return {};
}

std::string problem_of_root(base::Context& context, const std::string& directory, const Root& root) {
  std::string wanted = verity_superblock(root.data_bytes, root.salt, root.uuid);
  std::string found(wanted.size(), '\0');
  base::Fd fd = open_part(directory, kRoot);
  read_exact(fd.get(), root.hash_offset(), std::as_writable_bytes(std::span(found)), kRoot);
  if (found != wanted) return "the hash area's superblock has not the size, salt and UUID of the manifest";
  std::string path = std::format("{}/{}", directory, kRoot);
  base::Result result = context.runner.run_any(
      {.argv = {"veritysetup", "verify", std::format("--hash-offset={}", root.hash_offset()), "--", path,
                path, root.root_hash},
       .timeout = std::chrono::minutes(30)});
  if (result.status == 0) return {};
  return "is not that of root.img: " + result.err.substr(0, result.err.find('\n'));
}

/// Calls `check`, and makes an Error of it the verdict. What asks us to stop is none.
Verdict verdict(const std::string& name, const std::function<std::string()>& check) {
  try {
    return {.name = name, .problem = check()};
  } catch (const base::Error& error) {
    if (error.exit() == base::Exit::kInterrupted) throw;
    return {.name = name, .problem = error.message(), .hint = error.hint()};
  }
}

bool is_named(const Manifest& manifest, const std::string& name, bool directory) {
  if (directory)
    return std::ranges::any_of(manifest.parts, [&](const Part& p) { return p.name.starts_with(name + "/"); });
  return name == kManifestFile || name == kSignatureFile || manifest.find(name) != nullptr;
}

std::vector<std::string> names_of_strays(const std::string& directory, const Manifest& manifest) try {
  std::vector<std::string> names;
  for (auto entry = fs::recursive_directory_iterator(directory); entry != fs::recursive_directory_iterator();
       ++entry) {
    base::check_interrupt();
    std::string name = entry->path().string().substr(directory.size());
    name.erase(0, name.find_first_not_of('/'));
    if (is_named(manifest, name, entry->symlink_status().type() == fs::file_type::directory)) continue;
    entry.disable_recursion_pending();
    names.push_back(name);
  }
  std::ranges::sort(names);
  return names;
} catch (const fs::filesystem_error& error) {
  throw base::Error("cannot list " + directory, error.code().value());
}

std::vector<Verdict> strays(const std::string& directory, const Manifest& manifest) {
  std::vector<std::string> names = names_of_strays(directory, manifest);
  std::vector<Verdict> verdicts;
  for (const std::string& name : names) {
    if (verdicts.size() == kMostStrays) {
      verdicts.push_back({.name = std::format("{} more", names.size() - kMostStrays),
                          .problem = "are not named by the manifest"});
      break;
    }
    // Whoever put it there has chosen the name.
    std::string shown = nlohmann::json(name).dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
    verdicts.push_back(
        {.name = shown.substr(1, shown.size() - 2), .problem = "is not named by the manifest"});
  }
  return verdicts;
}

}  // namespace

std::vector<Verdict> verify_parts(base::Context& context, const std::string& directory,
                                  const Manifest& manifest) {
  uint64_t total = 0, done = 0;
  for (const Part& part : manifest.parts) total += part.bytes;
  std::vector<Verdict> verdicts;
  {
    base::Phase phase(context.progress, "verify", total);
    for (const Part& part : manifest.parts) {
      auto read = [&](uint64_t bytes) { phase.at(done += bytes); };
      verdicts.push_back(verdict(part.name, [&] { return problem_of_part(directory, part, read); }));
    }
  }
  base::Phase phase(context.progress, "verify the root hash");
  verdicts.push_back(
      verdict("root hash", [&] { return problem_of_root(context, directory, manifest.root); }));
  std::ranges::copy(strays(directory, manifest), std::back_inserter(verdicts));
  return verdicts;
}

}  // namespace image
