#include "image/libraries.h"

#include "rootfs/tree.h"

namespace image {

// Debian's ld.so.conf.d and ld.so's own; ldconfig's cache holds nothing else.
const std::vector<std::string>& library_directories() {
  static const std::vector<std::string> directories = {"/usr/local/lib", "/usr/local/lib/x86_64-linux-gnu",
                                                       "/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib"};
  return directories;
}

std::string find_library(const std::string& root, const std::string& name,
                         const std::vector<std::string>& run_path, const std::string& origin) {
  rootfs::Tree tree(root);
  if (name.contains('/')) return tree.has(name) ? name : "";
  for (std::string directory : run_path) {
    for (std::string_view word : {"$ORIGIN", "${ORIGIN}"})
      if (size_t at = directory.find(word); at != std::string::npos)
        directory.replace(at, word.size(), origin);
    if (std::string path = directory + "/" + name; tree.has(path)) return path;
  }
  // A library of one program's own: that program's run path has found it already.
  if (std::string path = origin + "/" + name; tree.has(path)) return path;
  for (const std::string& directory : library_directories())
    if (std::string path = directory + "/" + name; tree.has(path)) return path;
  return "";
}

}  // namespace image
