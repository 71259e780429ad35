#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>
#include <unistd.h>

#include <memory>
#include <sstream>

#include "base/error.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/progress.h"
#include "box/node.h"
#include "cli/command.h"
#include "cli/nouns.h"
#include "cli/output.h"
#include "cli/places.h"
#include "templates/build.h"
#include "templates/copy.h"
#include "templates/store.h"

namespace cli {
namespace {

using nlohmann::json;

std::string own_size(const templates::Manifest& manifest) {
  return base::human_size(manifest.layers.back().bytes);
}

uint64_t all_bytes(const templates::Manifest& manifest) {
  uint64_t bytes = 0;
  for (const templates::Layer& layer : manifest.layers) bytes += layer.bytes;
  return bytes;
}

struct BuildArguments {
  std::string file;
  templates::BuildOptions options;
};

void build(const Call& call, const BuildArguments& arguments) {
  templates::Definition definition = templates::read_definition(arguments.file);
  templates::Store store(call.context.state_dir);
  auto [manifest, unchanged] = templates::build(call.context, store, definition, arguments.options);
  const templates::Layer& layer = manifest.layers.back();
  if (call.json) {
    print_json({{"template", manifest.reference()},
                {"unchanged", unchanged},
                {"base", manifest.base},
                {"layer", {{"digest", layer.digest}, {"bytes", layer.bytes}}}});
    return;
  }
  print(std::format("{}: {}, {}{}\n", manifest.reference(), unchanged ? "unchanged" : "built",
                    own_size(manifest), manifest.base.empty() ? "" : " on " + manifest.base));
}

void list(const Call& call) {
  templates::Store store(call.context.state_dir);
  json documents = json::array();
  std::vector<std::vector<std::string>> rows;
  for (const templates::Store::Version& version : store.versions()) {
    try {
      templates::Manifest manifest = store.load(version).manifest;
      rows.push_back({manifest.reference(), manifest.base.empty() ? "-" : manifest.base, own_size(manifest),
                      base::human_size(all_bytes(manifest)), manifest.description});
      documents.push_back({{"template", manifest.reference()},
                           {"base", manifest.base},
                           {"bytes", manifest.layers.back().bytes},
                           {"all_bytes", all_bytes(manifest)},
                           {"description", manifest.description}});
    } catch (const base::Error& error) {
      // One that cannot be trusted must not hide the others.
      rows.push_back({version.reference(), "-", "-", "-", "unusable: " + error.message()});
      documents.push_back({{"template", version.reference()}, {"unusable", error.message()}});
    }
  }
  if (call.json)
    print_json(documents);
  else
    print(table({"TEMPLATE", "BASE", "OWN SIZE", "WITH BASE", "DESCRIPTION"}, rows));
}

void show(const Call& call, const std::string& reference) {
  templates::Store store(call.context.state_dir);
  templates::Manifest manifest = store.resolve(reference);
  if (call.json) {
    print_json(json::parse(manifest.render()));
    return;
  }
  std::vector<std::vector<std::string>> rows = {
      {"description", manifest.description},
      {"base", manifest.base.empty() ? "none: an OS template" : manifest.base},
      {"distribution", std::format("Debian {} {}", manifest.distribution, manifest.architecture)},
      {"starts with", base::quoted(manifest.start.init)},
      {"stops with", std::format("{}, within {} s", manifest.start.stop_signal, manifest.start.stop_seconds)},
      {"own files", base::human_size(manifest.tree_bytes)},
  };
  for (const templates::Layer& layer : manifest.layers)
    rows.push_back({"layer", std::format("{}  {}{}", layer.digest, base::human_size(layer.bytes),
                                         store.has_layer(layer) ? "" : "  MISSING")});
  for (const templates::Package& package : manifest.packages)
    rows.push_back({"package", package.name + " " + package.version});
  print(table({"TEMPLATE", manifest.reference()}, rows));
}

void verify(const Call& call, const std::vector<std::string>& references) {
  templates::Store store(call.context.state_dir);
  json documents = json::array();
  std::vector<std::vector<std::string>> rows;
  const templates::Verdict* first_bad = nullptr;
  std::vector<templates::Verdict> verdicts = templates::verify(call.context, store, references);
  for (const templates::Verdict& verdict : verdicts) {
    bool good = verdict.problem.empty();
    if (!good && first_bad == nullptr) first_bad = &verdict;
    rows.push_back({verdict.reference, good ? "good" : verdict.problem});
    documents.push_back({{"template", verdict.reference}, {"good", good}, {"problem", verdict.problem}});
  }
  if (call.json)
    print_json(documents);
  else
    print(table({"TEMPLATE", "RESULT"}, rows));
  if (first_bad != nullptr)
    throw base::error("{}: {}", first_bad->reference, first_bad->problem).hint(first_bad->hint);
}

struct GcArguments {
  unsigned keep = 0;
  bool dry_run = false;
  bool packages = false;
  std::string cache_dir;
};

/// What the boxes of this machine, and those on their way to it, stand on.
std::vector<std::string> used_by_boxes(const base::Context& context) {
  std::vector<std::string> used;
  for (const box::Config& config : box::all_configs(context)) {
    used.push_back(config.template_ref);
    for (const templates::Layer& layer : config.layers) used.push_back(layer.digest);
  }
  return used;
}

void gc(const Call& call, const GcArguments& arguments) {
  templates::Store store(call.context.state_dir);
  templates::Store::Freed freed =
      store.gc(arguments.keep, [&] { return used_by_boxes(call.context); }, arguments.dry_run);
  if (arguments.packages && !arguments.dry_run)
    for (const char* name : {"/packages", "/apt"}) base::remove_tree(arguments.cache_dir + name);
  if (call.json) {
    print_json({{"templates", freed.versions},
                {"layers", freed.layers},
                {"half_files", freed.scratch},
                {"bytes", freed.bytes}});
    return;
  }
  for (const std::string& version : freed.versions) print(version + "\n");
  for (const std::string& layer : freed.layers) print(layer + "\n");
  print(std::format("{}: {} versions, {} layers, {} half files; {}\n",
                    arguments.dry_run ? "would remove" : "removed", freed.versions.size(),
                    freed.layers.size(), freed.scratch, base::human_size(freed.bytes)));
}

struct CopyArguments {
  std::string reference, node, rsh = "ssh";
};

void copy(const Call& call, const CopyArguments& arguments) {
  templates::Store store(call.context.state_dir);
  std::istringstream words(arguments.rsh);
  std::vector<std::string> rsh;
  for (std::string word; words >> word;) rsh.push_back(word);
  if (rsh.empty()) throw base::error("--rsh names no program").exit(base::Exit::kUsage);
  std::string reference = store.resolve(arguments.reference).reference();
  uint64_t bytes = templates::copy_to(call.context, store, reference, arguments.node, rsh);
  if (call.json)
    print_json({{"template", reference}, {"node", arguments.node}, {"bytes", bytes}});
  else
    print(std::format("{} is on {}: {} sent\n", reference, arguments.node, base::human_size(bytes)));
}

void add_store_commands(Commands& commands, const Places& places) {
  commands.add("list", "List the templates here", list);

  auto reference = std::make_shared<std::string>();
  CLI::App& show_command = commands.add("show", "Show what a template is made of",
                                        [=](const Call& call) { show(call, *reference); });
  show_command.add_option("NAME[@VERSION]", *reference, "the template")->required();

  auto references = std::make_shared<std::vector<std::string>>();
  CLI::App& verify_command = commands.add("verify", "Check signatures and every byte of the layers",
                                          [=](const Call& call) { verify(call, *references); });
  verify_command.add_option("NAME[@VERSION]", *references, "these only");

  auto arguments = std::make_shared<GcArguments>();
  arguments->cache_dir = places.cache_dir;
  CLI::App& gc_command = commands.add("gc", "Remove half files and layers that no template names",
                                      [=](const Call& call) { gc(call, *arguments); });
  gc_command
      .add_option("--keep", arguments->keep,
                  "also remove versions that no box uses, but the newest N of each")
      ->check(CLI::Range(1, 1000));
  gc_command.add_flag("--dry-run", arguments->dry_run, "only tell what would go");
  gc_command.add_flag("--packages", arguments->packages, "empty the package cache as well");
  gc_command.add_option("--cache-dir", arguments->cache_dir, "where packages are kept")
      ->capture_default_str();
}

}  // namespace

void receive_template(const Call& call) {
  templates::Store store(call.context.state_dir);
  templates::receive(call.context, store, STDIN_FILENO, STDOUT_FILENO);
}

void add_template_commands(Commands& commands) {
  auto build_arguments = std::make_shared<BuildArguments>();
  CLI::App& build_command = commands.add("build", "Build a template from a definition",
                                         [=](const Call& call) { build(call, *build_arguments); });
  build_command.add_option("FILE", build_arguments->file, "the definition")->required();
  templates::BuildOptions& options = build_arguments->options;
  options.cache_dir = own_places().cache_dir;
  build_command.add_flag("--offline", options.offline, "use the package lists and packages of the cache");
  build_command.add_flag("--rebuild", options.rebuild, "build also when nothing has changed");
  build_command.add_flag("--on-disk", options.on_disk, "work in the state directory instead of in memory");
  build_command.add_option("--cache-dir", options.cache_dir, "where packages are kept")
      ->capture_default_str();

  auto copy_arguments = std::make_shared<CopyArguments>();
  CLI::App& copy_command = commands.add("copy", "Copy a template to a node",
                                        [=](const Call& call) { copy(call, *copy_arguments); });
  copy_command.add_option("NAME[@VERSION]", copy_arguments->reference, "the template")->required();
  copy_command.add_option("--to", copy_arguments->node, "the node")->required();
  copy_command.add_option("--rsh", copy_arguments->rsh, "reaches it, instead of ssh")->capture_default_str();

  add_store_commands(commands, own_places());
}

void add_node_template_commands(Commands& commands) {
  commands.add("receive", "Take in a template from stdin: what `drover template copy` starts",
               receive_template);
  add_store_commands(commands, system_places());
}

}  // namespace cli
