#pragma once
#include <string>

namespace bootstrap {

/// Copies what is in the directory `from` into the directory `to`, which is there: directories, files and
/// symbolic links with owner, mode, time and extended attributes. Hard links become files of their own;
/// sockets, pipes and devices are left out. Throws at the first that cannot be copied.
void copy_tree(const std::string& from, const std::string& to);

}  // namespace bootstrap
