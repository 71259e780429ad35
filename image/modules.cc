#include "image/modules.h"

#include <algorithm>
#include <filesystem>
#include <sstream>

#include "base/error.h"
#include "base/fd.h"
#include "base/text.h"
#include "image/hardware.h"

namespace image {
namespace {

/// How many files one modinfo gets: a command line has its limits.
constexpr size_t kFilesAtOnce = 500;

std::vector<std::string> words_of(const std::string& line) {
  std::istringstream in(line);
  std::vector<std::string> words;
  for (std::string word; in >> word;) words.push_back(word);
  return words;
}

}  // namespace

std::string module_name(std::string_view file) {
  std::string name(file.substr(file.rfind('/') + 1));
  name = name.substr(0, name.find(".ko"));
  std::ranges::replace(name, '-', '_');
  return name;
}

ModuleTables ModuleTables::read(const std::string& directory) {
  ModuleTables tables;
  tables.version_ = std::filesystem::path(directory).filename();
  auto dep = base::read_file_if_exists(directory + "/modules.dep");
  if (!dep) throw base::error("the kernel has no table of its modules: no file {}/modules.dep", directory);
  // "kernel/fs/erofs/erofs.ko.xz: kernel/lib/a.ko.xz kernel/lib/b.ko.xz": what is needed last is loaded
  // first.
  for (const std::string& line : base::lines_of(*dep)) {
    size_t colon = line.find(':');
    if (colon == std::string::npos || colon == 0) continue;
    Module module = {.file = line.substr(0, colon), .needs = {}, .followers = {}};
    for (const std::string& file : words_of(line.substr(colon + 1)))
      module.needs.insert(module.needs.begin(), module_name(file));
    tables.modules_[module_name(module.file)] = module;
  }
  // "softdep libcrc32c pre: crc32c post: x": by name, which may be an alias.
  for (const std::string& line :
       base::lines_of(base::read_file_if_exists(directory + "/modules.softdep").value_or(""))) {
    std::vector<std::string> words = words_of(line);
    if (words.size() < 3 || words[0] != "softdep") continue;
    auto module = tables.modules_.find(module_name(words[1]));
    if (module == tables.modules_.end()) continue;
    auto* side = &module->second.needs;
    for (const std::string& word : std::span(words).subspan(2)) {
      if (word == "pre:")
        side = &module->second.needs;
      else if (word == "post:")
        side = &module->second.followers;
      else
        side->push_back(module_name(word));
    }
  }
  // "alias crypto-crc32c crc32c_intel"; those of devices are patterns, with a colon.
  for (const std::string& line :
       base::lines_of(base::read_file_if_exists(directory + "/modules.alias").value_or(""))) {
    std::vector<std::string> words = words_of(line);
    if (words.size() == 3 && words[0] == "alias" && !words[1].contains(':'))
      tables.aliases_[module_name(words[1])].push_back(module_name(words[2]));
  }
  for (const std::string& line :
       base::lines_of(base::read_file_if_exists(directory + "/modules.builtin").value_or("")))
    tables.builtin_.insert(module_name(line));
  return tables;
}

bool ModuleTables::has(std::string_view name) const {
  return builtin_.contains(name) || modules_.contains(name);
}

void ModuleTables::add(const std::string& name, std::set<std::string>& seen,
                       std::vector<std::string>& files) const {
  if (!seen.insert(name).second) return;
  auto module = modules_.find(name);
  if (module == modules_.end()) {
    // All that have the alias: which of them works is the machine's affair.
    if (auto alias = aliases_.find(name); alias != aliases_.end())
      for (const std::string& one : alias->second) add(one, seen, files);
    return;
  }
  for (const std::string& needed : module->second.needs) add(needed, seen, files);
  files.push_back(module->second.file);
  for (const std::string& follower : module->second.followers) add(follower, seen, files);
}

std::vector<std::string> ModuleTables::files(std::span<const std::string_view> names) const {
  std::set<std::string> seen;
  std::vector<std::string> files;
  for (std::string_view name : names) add(std::string(name), seen, files);
  return files;
}

std::set<std::string> ModuleTables::all_files() const {
  std::set<std::string> files;
  for (const auto& [name, module] : modules_) files.insert(module.file);
  return files;
}

std::vector<std::string_view> wanted_modules(const Definition& definition, const ModuleTables& tables,
                                             Needed needed) {
  bool all = needed == Needed::kOnNode;
  std::vector<std::string_view> names(initrd_modules().begin(), initrd_modules().end());
  for (const Family& family : hardware_families()) {
    auto word = std::ranges::find_if(definition.hardware, [&](const base::Word& one) {
      return one.text == family.name || one.text == "all";
    });
    if (word == definition.hardware.end() || (!all && !family.early)) continue;
    if (word->text != "all" &&
        std::ranges::none_of(family.modules, [&](auto name) { return tables.has(name); }))
      throw base::error("{}: hardware: the kernel {} has no driver of {}", word->place, tables.version(),
                        family.name)
          .hint("[kernel] package = \"linux-image-amd64\" has them all");
    names.insert(names.end(), family.modules.begin(), family.modules.end());
  }
  if (all) names.insert(names.end(), node_modules().begin(), node_modules().end());
  return names;
}

std::set<std::string> firmware_of(base::Context& context, const std::vector<std::string>& files) {
  std::set<std::string> firmware;
  for (size_t at = 0; at < files.size(); at += kFilesAtOnce) {
    std::vector<std::string> argv = {"modinfo", "-F", "firmware"};
    for (const std::string& file : std::span(files).subspan(at, std::min(kFilesAtOnce, files.size() - at)))
      argv.push_back(file);
    for (const std::string& line : base::lines_of(context.runner.run({.argv = argv}).out))
      if (!line.empty()) firmware.insert(line);
  }
  return firmware;
}

}  // namespace image
