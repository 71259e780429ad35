#pragma once
#include <string>
#include <vector>

#include "base/toml_table.h"

/// Root directories made from Debian's packages: what templates and host images have in common.
namespace rootfs {

constexpr unsigned kLastId = 65'535;  ///< the last user or group id that a tree may have

/// A package of Debian.
struct Package {
  std::string name, version, architecture;
  std::string source = {};  ///< the source package's name: known of what is installed, empty of other ones
  bool operator==(const Package&) const = default;
};

/// Where packages come from.
struct Mirror {
  std::string url;      ///< empty: from this machine's apt sources
  std::string keyring;  ///< file with the keys that sign it; empty: Debian's
  std::vector<std::string> components = {"main"};
};

/// A file that a definition adds.
struct File {
  enum class Kind { kContent, kSymlink, kDirectory };
  std::string path;  ///< absolute, in the tree
  Kind kind = Kind::kContent;
  std::string content = {};  ///< of the file, or what the symlink says
  unsigned mode = 0644;
  std::string owner = "root", group = "root";  ///< names known in the tree, or numbers
  bool early = false;                          ///< placed before the packages are installed
  std::string place = {};                      ///< "FILE:LINE"
};

struct Strip {
  bool documentation = true, locales = true, caches = true;
  std::vector<std::string> paths = {};  ///< shell patterns of absolute paths
};

/// Not empty, and all of these characters.
bool only(std::string_view text, std::string_view allowed);
constexpr std::string_view kLowerDigits = "abcdefghijklmnopqrstuvwxyz0123456789";

/// No ".", "..", double slash or slash at its end; not "/" itself.
bool clean_absolute_path(const std::string& path);

/// The keys that definitions share, each read from its table and checked; relative files are beside the
/// definition, in `directory`. `parse_file` does not end its table: finish() does, after the caller's own
/// keys.
std::string parse_suite(base::TomlTable& in);
Mirror parse_mirror(base::TomlTable& in, const std::string& directory);
File parse_file(base::TomlTable& in, const std::string& directory);
/// The file that `key` names.
std::string read_beside(base::TomlTable& in, const std::string& key, const std::string& path);
/// A package's name, NAME=VERSION, or NAME/SUITE.
bool valid_package(std::string_view text);
void check_packages(const std::vector<base::Word>& packages);

}  // namespace rootfs
