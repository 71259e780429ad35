#pragma once
#include <map>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/context.h"
#include "image/definition.h"

/// Which of a kernel's modules an image keeps, and what firmware they ask for.
namespace image {

/// The tables that depmod has made (modules.dep(5), modules.softdep, modules.alias, modules.builtin) for one
/// kernel.
class ModuleTables {
 public:
  /// Of DIRECTORY, a /lib/modules/VERSION. Throws where modules.dep is not there.
  static ModuleTables read(const std::string& directory);

  /// Of the kernel: the directory's name.
  [[nodiscard]] const std::string& version() const { return version_; }
  /// The kernel has it built in, or as a file.
  [[nodiscard]] bool has(std::string_view name) const;
  /// Files (paths in the directory) of these modules and of all that they stand on, so ordered that each
  /// stands behind what it needs; a name that several modules have as an alias is all of them. What is built
  /// in needs no file; what the kernel does not have is left out.
  [[nodiscard]] std::vector<std::string> files(std::span<const std::string_view> names) const;
  /// All files there are.
  [[nodiscard]] std::set<std::string> all_files() const;

 private:
  void add(const std::string& name, std::set<std::string>& seen, std::vector<std::string>& files) const;

  struct Module {
    std::string file;
    std::vector<std::string> needs;      ///< names, those that load first in front
    std::vector<std::string> followers;  ///< that work with it once it is loaded
  };
  std::string version_;
  std::map<std::string, Module, std::less<>> modules_;
  std::set<std::string, std::less<>> builtin_;
  std::map<std::string, std::vector<std::string>, std::less<>> aliases_;
};

/// Where a node needs modules: the initrd has those with which it reaches its root, the root has all.
enum class Needed { kInInitrd, kOnNode };

/// Names of the modules that a definition's hardware asks for, and of those that every node needs. Throws
/// where the kernel has no module of a family that is named.
std::vector<std::string_view> wanted_modules(const Definition& definition, const ModuleTables& tables,
                                             Needed needed);

/// As the kernel names a module: the file's name without its end, with '_' for '-'.
std::string module_name(std::string_view file);

/// Of these module files, what firmware they name (modinfo -F firmware): paths below /lib/firmware, which may
/// hold the wildcards that request_firmware's users write there.
std::set<std::string> firmware_of(base::Context& context, const std::vector<std::string>& files);

}  // namespace image
