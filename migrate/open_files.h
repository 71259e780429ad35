#pragma once
#include <sys/types.h>

#include <optional>
#include <vector>

#include "migrate/tree.h"

namespace migrate {

/// Files of the private layer that the box's processes have open for writing: what a ChangeWatch tells of
/// only when they are closed. `upper` is the private layer's directory. nullopt: nobody can tell which file
/// one of them is, as it has lost the name it was opened by and still has others, say.
std::optional<FileSet> files_open_for_writing(const std::vector<pid_t>& pids, int upper);

}  // namespace migrate
