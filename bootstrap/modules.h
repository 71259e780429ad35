#pragma once
#include <string>
#include <string_view>
#include <vector>

namespace bootstrap {

/// Of the list of an initrd: one path a line, in the order in which they are loaded. What is not absolute
/// stands below `directory`.
std::vector<std::string> module_paths(std::string_view list, const std::string& directory);

/// finit_module(2); .xz and .zst are for the kernel to unpack. A module that is there already, or whose
/// hardware is not, is fine. Otherwise the Error names the file.
void load_module(const std::string& path);

}  // namespace bootstrap
