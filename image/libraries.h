#pragma once
#include <string>
#include <vector>

namespace image {

/// Where ld.so of Debian's amd64 looks, ld.so.conf's directories first.
const std::vector<std::string>& library_directories();

/// The path in `root` of a library that an ELF file in the directory `origin` asks for; empty: not there.
std::string find_library(const std::string& root, const std::string& name,
                         const std::vector<std::string>& run_path, const std::string& origin);

}  // namespace image
