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

/// What Strip's words mean, and what never stays: patterns, as remove_matching() takes them.
struct StripPlaces {
  std::vector<std::string> documentation, locales, caches, never_shared, builders_traces;
};
const StripPlaces& strip_places();
/// Licences, and what programs cannot do without, stay wherever they stand.
bool must_stay(const std::string& path);
bool matches_pattern(const std::string& pattern, const std::string& path, bool directory);

/// Removes what matches one of the patterns. A pattern is an absolute path in which * and ? do
/// not match a slash; with a slash at its end it means all files below, directories stay.
/// Symlinks are not followed, mounts not entered.
void remove_matching(const std::string& root, const std::vector<std::string>& patterns);

}  // namespace rootfs
