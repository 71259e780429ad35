#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <map>
#include <set>

#include "base/error.h"
#include "templates/store.h"

namespace templates {
namespace {

namespace fs = std::filesystem;

std::vector<fs::path> entries(const std::string& directory) {
  std::vector<fs::path> paths;
  std::error_code missing;
  for (const auto& entry : fs::directory_iterator(directory, missing)) paths.push_back(entry.path());
  return paths;
}

/// Takes things away, or only counts them.
class Remover {
 public:
  Remover(Store::Freed& freed, bool dry_run) : freed_(freed), dry_run_(dry_run) {}

  void remove(const std::string& path) {
    struct stat status;
    if (::lstat(path.c_str(), &status) != 0) return;
    if (!dry_run_) base::remove_tree(path);
    freed_.bytes += static_cast<uint64_t>(status.st_size);
  }

  void scratch(const std::string& path) {
    remove(path);
    ++freed_.scratch;
  }

 private:
  Store::Freed& freed_;
  bool dry_run_;
};

/// All that are newest, or in use. `all` is sorted oldest first within a name.
std::set<std::string> to_keep(const std::vector<Store::Version>& all, unsigned keep,
                              const std::vector<std::string>& in_use) {
  std::set<std::string> kept(in_use.begin(), in_use.end());
  std::map<std::string, unsigned> newer;
  for (auto version = all.rbegin(); version != all.rend(); ++version)
    if (keep == 0 || newer[version->name]++ < keep) kept.insert(version->reference());
  return kept;
}

}  // namespace

Store::Freed Store::gc(unsigned keep, const std::function<std::vector<std::string>()>& in_use, bool dry_run) {
  base::Fd alone = lock(LOCK_EX);
  Freed freed;
  Remover remover(freed, dry_run);

  // Nobody else writes now, so whatever is unfinished belongs to the dead.
  for (const fs::path& path : entries(scratch_dir())) remover.scratch(path);
  for (const fs::path& directory : entries(state_dir_ + "/templates"))
    for (const fs::path& path : entries(directory))
      if (path.filename().string().starts_with(".new-")) remover.scratch(path);

  std::vector<Version> all = versions();
  std::set<std::string> kept = to_keep(all, keep, in_use ? in_use() : std::vector<std::string>());
  std::set<std::string> needed;
  std::vector<Version> superfluous;
  for (const Version& version : all) {
    if (!kept.contains(version.reference())) {
      superfluous.push_back(version);
      continue;
    }
    Manifest manifest = base::in_context("reading which layers " + version.reference() + " needs", [&] {
      return Manifest::parse(base::read_file(manifest_path(version), 8 << 20));
    });
    for (const Layer& layer : manifest.layers) needed.insert(layer_path(layer.digest));
  }
  for (const Version& version : superfluous) {
    remover.remove(manifest_path(version));  // without it the version does not exist
    remover.remove(manifest_path(version) + ".minisig");
    freed.versions.push_back(version.reference());
  }
  for (const fs::path& path : entries(state_dir_ + "/layers/sha256")) {
    std::string digest = "sha256:" + path.stem().string();
    if (needed.contains(path) || kept.contains(digest)) continue;
    remover.remove(path);
    freed.layers.push_back(digest);
  }
  return freed;
}

}  // namespace templates
