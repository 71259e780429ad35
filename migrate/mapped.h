#pragma once
#include <sys/types.h>

#include <optional>
#include <string>
#include <vector>

#include "migrate/tree.h"

namespace migrate {

/// Files of the private layer that the box's processes have mapped shared and writable: of a store through
/// such a mapping a ChangeWatch does not tell. nullopt: nobody can tell which file one of them is.
std::optional<FileSet> shared_writable_files(const std::vector<pid_t>& pids, int upper);

/// Bytes of files that they have mapped so, whichever: the last round reads them all.
uint64_t shared_writable_bytes(const std::vector<pid_t>& pids);

/// Paths in the box, without the slash before them, of files that its processes have mapped: programs,
/// libraries. Each once, in the order of the mappings; at most kMostMappedFiles, none of 256 bytes or more,
/// or with other than printable ASCII without quotes and backslashes.
std::vector<std::string> mapped_files(const std::vector<pid_t>& pids);
inline constexpr size_t kMostMappedFiles = 2000;

}  // namespace migrate
