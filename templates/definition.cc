#include "templates/definition.h"

#include <algorithm>
#include <filesystem>
#include <limits>
#include <set>

#include "base/error.h"
#include "base/fd.h"
#include "base/text.h"
#include "templates/manifest.h"

namespace templates {
namespace {

constexpr size_t kMostText = 1 << 20;
Definition::Distribution parse_distribution(base::TomlTable& in) {
  constexpr std::array kVariants = {"extract", "essential", "apt", "required", "important"};
  Definition::Distribution distribution;
  distribution.suite = rootfs::parse_suite(in);
  if (auto variant = in.text("variant")) distribution.variant = *variant;
  if (std::ranges::find(kVariants, distribution.variant) == kVariants.end())
    throw in.wrong("variant", "extract, essential, apt, required or important",
                   '"' + distribution.variant + '"');
  in.finish();
  return distribution;
}

Definition::Strip parse_strip(base::TomlTable& in) {
  Definition::Strip strip;
  strip.documentation = in.flag("documentation").value_or(true);
  strip.locales = in.flag("locales").value_or(true);
  strip.caches = in.flag("caches").value_or(true);
  strip.paths = in.texts("paths");
  for (const std::string& path : strip.paths)
    if (!rootfs::clean_absolute_path(path))
      throw in.wrong("paths", "absolute paths, with * and ? as a shell knows them", '"' + path + '"');
  in.finish();
  return strip;
}

Definition::Box parse_box(base::TomlTable& in) {
  Definition::Box box;
  box.place = in.place();
  if (auto init = in.texts("init"); !init.empty()) box.init = init;
  if (auto env = in.table("env")) box.env = env->texts_by_name();
  box.working_dir = in.text("working_dir");
  box.stop_signal = in.text("stop_signal");
  box.stop_seconds = in.number("stop_seconds", 1, 3600);
  box.control_groups = in.flag("control_groups");
  in.finish();
  // What is given is looked at as a whole with something valid in the place of what is not.
  Start start = {.init = box.init.value_or(std::vector<std::string>{"/sbin/init"}), .env = box.env};
  if (box.working_dir) start.working_dir = *box.working_dir;
  if (box.stop_signal) start.stop_signal = *box.stop_signal;
  if (std::string problem = problem_with(start); !problem.empty())
    throw base::conflict(box.place, "box: expected " + problem);
  return box;
}

Definition parse_top(base::TomlTable& in, const std::string& directory) {
  Definition definition;
  definition.name = in.required_text("name", "the template's name");
  if (!valid_name(definition.name))
    throw in.wrong("name", "lower-case letters, digits and . + - (at most 63)", '"' + definition.name + '"');
  definition.description = in.text("description").value_or("");
  if (auto base = in.text("base")) {
    definition.base = {.text = *base, .place = in.place_of("base")};
    if (!valid_reference(*base))
      throw in.wrong("base", "NAME or NAME@VERSION of a template", '"' + *base + '"');
  }
  if (auto distribution = in.table("distribution"))
    definition.distribution = parse_distribution(*distribution);
  if (auto mirror = in.table("mirror")) definition.mirror = rootfs::parse_mirror(*mirror, directory);
  if (definition.base.text.empty() && !definition.distribution)
    throw in.missing("base", "the name of an OS template, or a table [distribution] to make one");
  if (!definition.base.text.empty() && definition.distribution)
    throw base::conflict(definition.base.place,
                         "base and [distribution] exclude each other: an application "
                         "template stands on a base, an OS template on a distribution");
  definition.packages = in.words("packages");
  rootfs::check_packages(definition.packages);
  definition.commands = in.words("commands");
  for (base::TomlTable& entry : in.tables("file")) {
    Definition::File added = rootfs::parse_file(entry, directory);
    added.early = entry.flag("early").value_or(false);
    entry.finish();
    definition.files.push_back(added);
  }
  if (auto strip = in.table("strip")) definition.strip = parse_strip(*strip);
  if (auto box = in.table("box")) definition.box = parse_box(*box);
  in.finish();
  if (definition.distribution && !definition.box.init)
    throw in.missing("box.init", "the command that a box of it starts with, such as [\"/sbin/init\"]");
  return definition;
}

}  // namespace

Definition parse_definition(std::string_view text, const std::string& file, const std::string& directory) {
  base::TomlTable in = base::TomlTable::parse(text, file);
  return parse_top(in, directory);
}

Definition read_definition(const std::string& path) {
  auto text = base::read_file_if_exists(path, kMostText);
  if (!text)
    throw base::error("there is no definition {}", path)
        .hint("name a TOML file, such as those in templates/definitions");
  return parse_definition(*text, path, std::filesystem::absolute(path).parent_path());
}

}  // namespace templates
