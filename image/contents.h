#pragma once
#include <cstdint>
#include <map>
#include <string>

#include "image/root.h"
#include "image/strip.h"

namespace image {

/// What takes the space in a root, and what the strip took out of it: contents.json of an image directory
/// (docs/formats/image-contents.md). Bytes are of files, not compressed; a hard link counts once.
struct Contents {
  std::map<std::string, uint64_t> packages;     ///< by package; "-": of none
  std::map<std::string, uint64_t> directories;  ///< by directory, three levels of it: "/usr/lib/modules"
  std::map<std::string, Removed> removed;       ///< by strip rule
  uint64_t bytes = 0;                           ///< of all files

  /// Throws where the text is not as render() makes it.
  static Contents parse(const std::string& text);
  [[nodiscard]] std::string render() const;
};

Contents contents_of(const std::string& tree, const Installed& installed,
                     std::map<std::string, Removed> removed);

}  // namespace image
