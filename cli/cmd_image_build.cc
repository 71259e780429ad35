#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <filesystem>
#include <memory>

#include "base/error.h"
#include "base/fd.h"
#include "cli/nouns.h"
#include "cli/output.h"
#include "cli/places.h"
#include "image/build.h"
#include "image/contents.h"

namespace cli {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

constexpr size_t kRowsShown = 25;

struct BuildArguments {
  std::string file;
  image::BuildOptions options;
  std::string backend = "direct";
  std::string version;
};

/// Where drover-node's package is: beside the programs of a build, or where the package drover has it.
std::vector<std::string> own_package_directories() {
  fs::path program = fs::read_symlink("/proc/self/exe");
  return {program.parent_path().parent_path(), "/usr/share/drover/packages"};
}

void build(const Call& call, const BuildArguments& arguments) {
  image::Definition definition = image::read_definition(arguments.file);
  image::BuildOptions options = arguments.options;
  options.keys_dir = call.context.state_dir + "/keys";
  options.drover_version = version();
  for (std::string& directory : own_package_directories()) options.package_dirs.push_back(directory);
  if (!arguments.version.empty()) options.version = arguments.version;
  options.backend = arguments.backend == "guestfs" ? image::Backend::kGuestfs : image::Backend::kDirect;
  auto [manifest, unchanged] = image::build(call.context, definition, options);
  uint64_t bytes = 0;
  for (const char* name : {"root.img", "vmlinuz", "initrd"}) bytes += manifest.at(name).bytes;
  if (call.json) {
    print_json({{"image", manifest.reference()},
                {"unchanged", unchanged},
                {"directory", options.out},
                {"root_hash", manifest.root.root_hash},
                {"slot_bytes", bytes}});
    return;
  }
  print(std::format("{}: {} in {}; root, kernel and initrd {}\n", manifest.reference(),
                    unchanged ? "unchanged" : "built", options.out, base::human_size(bytes)));
}

void add_rows(std::vector<std::vector<std::string>>& rows, const std::map<std::string, uint64_t>& sizes,
              const std::string& what, bool all) {
  std::vector<std::pair<std::string, uint64_t>> sorted(sizes.begin(), sizes.end());
  std::ranges::stable_sort(sorted, std::greater(), &std::pair<std::string, uint64_t>::second);
  uint64_t rest = 0;
  for (size_t i = 0; i < sorted.size(); ++i) {
    if (all || i < kRowsShown)
      rows.push_back({what, sorted[i].first, base::human_size(sorted[i].second)});
    else
      rest += sorted[i].second;
  }
  if (rest > 0)
    rows.push_back({what, std::format("{} more", sorted.size() - kRowsShown), base::human_size(rest)});
}

void explain(const Call& call, const std::string& directory, bool all) {
  auto text = base::read_file_if_exists(directory + "/contents.json");
  if (!text)
    throw base::error("there is no image in {}: no file contents.json", directory)
        .hint("name a directory that `drover image build FILE -o DIR` has made");
  image::Contents contents = image::Contents::parse(*text);
  if (call.json) {
    print_json(json::parse(*text));
    return;
  }
  std::vector<std::vector<std::string>> rows = {
      {"all", "files of the root, not compressed", base::human_size(contents.bytes)}};
  add_rows(rows, contents.packages, "package", all);
  add_rows(rows, contents.directories, "directory", all);
  std::map<std::string, uint64_t> removed;
  for (const auto& [rule, count] : contents.removed)
    removed[std::format("{} ({} files)", rule, count.files)] = count.bytes;
  add_rows(rows, removed, "removed", all);
  print(table({"WHAT", "NAME", "SIZE"}, rows));
}

}  // namespace

void add_image_build_commands(Commands& commands) {
  auto arguments = std::make_shared<BuildArguments>();
  arguments->options.cache_dir = own_places().cache_dir;
  CLI::App& command = commands.add("build", "Build a host image from a definition",
                                   [=](const Call& call) { build(call, *arguments); });
  command.add_option("FILE", arguments->file, "the definition")->required();
  command.add_option("-o,--output", arguments->options.out, "the image directory")->required();
  command.add_option("--packages", arguments->options.package_dirs,
                     "where own packages are, such as drover-node's");
  command.add_option("--image-version", arguments->version, "YYYYMMDDnn");
  command.add_option("--backend", arguments->backend, "what composes the disk")
      ->check(CLI::IsMember({"direct", "guestfs"}))
      ->capture_default_str();
  command.add_flag("--update-lock", arguments->options.update_lock,
                   "take the newest packages, and write them down in image.lock");
  command.add_flag("--offline", arguments->options.offline,
                   "use the package lists and packages of the cache");
  command.add_flag("--rebuild", arguments->options.rebuild, "build also when nothing has changed");
  command.add_option("--cache-dir", arguments->options.cache_dir, "where packages and roots are kept")
      ->capture_default_str();

  auto directory = std::make_shared<std::string>();
  auto all = std::make_shared<bool>(false);
  CLI::App& explain_command =
      commands.add("explain", "Show what takes the space in an image, and what was stripped",
                   [=](const Call& call) { explain(call, *directory, *all); });
  explain_command.add_option("DIR", *directory, "the image directory")->required();
  explain_command.add_flag("--all", *all, "every package, directory and rule");
}

}  // namespace cli
