#pragma once
#include <string>
#include <vector>

#include "rootfs/parts.h"

namespace rootfs {

/// dpkg's options that keep what `strip` names from being unpacked at all.
std::vector<std::string> dpkg_excludes(const Strip& strip);

/// Takes out what only belongs to the machine that built the tree: its mirror, its name, its
/// resolver, what mmdebstrap left. Before the definition's files and commands, which may say better.
void remove_builders_traces(const std::string& root);

/// Takes out what `strip` names, and always what differs between two builds (logs, caches with
/// times in them, lock files) or must not be shared by two boxes (machine id, host keys).
void strip_tree(const std::string& root, const Strip& strip);

/// Removes what matches one of the patterns. A pattern is an absolute path in which * and ? do
/// not match a slash; with a slash at its end it means all files below, directories stay.
/// Symlinks are not followed, mounts not entered.
void remove_matching(const std::string& root, const std::vector<std::string>& patterns);

}  // namespace rootfs
