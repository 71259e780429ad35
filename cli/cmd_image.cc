#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <memory>

#include "base/error.h"
#include "base/progress.h"
#include "base/sign.h"
#include "cli/command.h"
#include "cli/nouns.h"
#include "cli/output.h"
#include "cli/places.h"
#include "image/delta.h"
#include "image/manifest.h"
#include "image/verify.h"

namespace cli {
namespace {

using nlohmann::json;

/// Where the keys are that count; --keys, else those of the state directory.
base::Keys keys_of(const Call& call, const std::string& directory) {
  return base::Keys(directory.empty() ? call.context.state_dir + "/keys" : directory);
}

/// Of --node-memory in MiB; 0: not said.
std::optional<uint64_t> bytes_of(uint64_t mib) { return mib == 0 ? std::nullopt : std::optional(mib << 20); }

struct VerifyArguments {
  std::string directory, keys, cache_dir = own_places().cache_dir;
  bool parts_only = false;
};

void verify(const Call& call, const VerifyArguments& arguments) {
  image::Manifest manifest = image::read_image(arguments.directory, keys_of(call, arguments.keys));
  std::vector<image::Verdict> verdicts = image::verify_parts(call.context, arguments.directory, manifest);
  if (!arguments.parts_only)
    std::ranges::copy(
        image::verify_disk(call.context, arguments.directory, manifest, verdicts, arguments.cache_dir),
        std::back_inserter(verdicts));
  json documents = json::array();
  std::vector<std::vector<std::string>> rows;
  for (const image::Verdict& verdict : verdicts) {
    rows.push_back({verdict.name, verdict.good() ? "good" : verdict.problem});
    documents.push_back({{"name", verdict.name}, {"good", verdict.good()}, {"problem", verdict.problem}});
  }
  auto bad = std::ranges::find_if_not(verdicts, &image::Verdict::good);
  if (call.json)
    print_json({{"image", manifest.reference()}, {"good", bad == verdicts.end()}, {"checks", documents}});
  else
    print(table({"PART OF " + manifest.reference(), "RESULT"}, rows));
  if (bad != verdicts.end()) throw base::error("{}: {}", bad->name, bad->problem).hint(bad->hint);
}

struct DeltaArguments {
  std::string old_dir, new_dir, out, keys;
  uint64_t node_memory = 0;
};

double percent(uint64_t part, uint64_t whole) {
  return whole == 0 ? 0 : 100.0 * static_cast<double>(part) / static_cast<double>(whole);
}

void delta(const Call& call, const DeltaArguments& arguments) {
  image::DeltaReport report =
      image::make_delta(call.context, arguments.old_dir, arguments.new_dir, keys_of(call, arguments.keys),
                        arguments.out, {.node_memory = bytes_of(arguments.node_memory)});
  json parts = json::array();
  std::vector<std::vector<std::string>> rows;
  for (const image::DeltaReport::Of& part : report.parts) {
    rows.push_back({part.part, base::human_size(part.bytes), base::human_size(part.delta_bytes), part.how});
    parts.push_back(
        {{"part", part.part}, {"bytes", part.bytes}, {"delta_bytes", part.delta_bytes}, {"how", part.how}});
  }
  if (call.json) {
    print_json({{"from", report.from},
                {"to", report.to},
                {"bytes", report.bytes},
                {"image_bytes", report.image_bytes},
                {"memory", report.memory},
                {"parts", parts}});
    return;
  }
  print(table({"PART", "SIZE", "IN THE DELTA", "HOW"}, rows));
  print(std::format("{} to {}: {}, {:.2f} % of root, kernel and initrd; applying it takes {} of memory\n",
                    report.from, report.to, base::human_size(report.bytes),
                    percent(report.bytes, report.image_bytes), base::human_size(report.memory)));
}

struct ApplyArguments {
  std::string delta, old_dir, out, keys;
  uint64_t node_memory = 0;
};

void apply(const Call& call, const ApplyArguments& arguments) {
  image::Manifest made = image::apply_delta(call.context, arguments.delta, arguments.old_dir, arguments.out,
                                            keys_of(call, arguments.keys), bytes_of(arguments.node_memory));
  if (call.json)
    print_json(
        {{"image", made.reference()}, {"directory", arguments.out}, {"root_hash", made.root.root_hash}});
  else
    print(std::format("{}: {}, root hash {}\n", arguments.out, made.reference(), made.root.root_hash));
}

void add_node_memory(CLI::App& command, uint64_t& value) {
  command
      .add_option("--node-memory", value,
                  "MiB that a node has for applying it; without it, what the old image says")
      ->check(CLI::Range(1, 1 << 20));
}

void add_keys(CLI::App& command, std::string& keys) {
  command.add_option("--keys", keys, "whose signatures count; without it, those of the state directory");
}

}  // namespace

void add_image_commands(Commands& commands) {
  add_image_build_commands(commands);
  auto verify_arguments = std::make_shared<VerifyArguments>();
  CLI::App& verify_command =
      commands.add("verify", "Check an image's signature, every byte of its parts, and its disk",
                   [=](const Call& call) { verify(call, *verify_arguments); });
  verify_command.add_option("DIR", verify_arguments->directory, "the image directory")->required();
  add_keys(verify_command, verify_arguments->keys);
  verify_command.add_flag("--parts-only", verify_arguments->parts_only,
                          "do not look into disk.img: it takes half a minute without KVM");
  verify_command
      .add_option("--cache-dir", verify_arguments->cache_dir, "where it is kept whether KVM works here")
      ->capture_default_str();

  auto delta_arguments = std::make_shared<DeltaArguments>();
  CLI::App& delta_command = commands.add("delta", "Write down how one image becomes another",
                                         [=](const Call& call) { delta(call, *delta_arguments); });
  delta_command.add_option("OLD", delta_arguments->old_dir, "the image directory that nodes have")
      ->required();
  delta_command.add_option("NEW", delta_arguments->new_dir, "the one that they are to get")->required();
  delta_command.add_option("-o,--out", delta_arguments->out, "the file to write")->required();
  add_node_memory(delta_command, delta_arguments->node_memory);
  add_keys(delta_command, delta_arguments->keys);

  auto apply_arguments = std::make_shared<ApplyArguments>();
  CLI::App& apply_command = commands.add("apply", "Make an image from an old one and a delta",
                                         [=](const Call& call) { apply(call, *apply_arguments); });
  apply_command.add_option("DELTA", apply_arguments->delta, "the delta")->required();
  apply_command.add_option("--old", apply_arguments->old_dir, "the image directory that it begins at")
      ->required();
  apply_command.add_option("-o,--out", apply_arguments->out, "the directory to make")->required();
  add_node_memory(apply_command, apply_arguments->node_memory);
  add_keys(apply_command, apply_arguments->keys);
}

}  // namespace cli
