#pragma once
#include <sys/types.h>

#include <optional>
#include <vector>

#include "migrate/tree.h"

namespace migrate {

/// Files of the private layer that the box's processes have open for writing: what a ChangeWatch tells of
/// only when they are closed. `upper` is the private layer's directory. nullopt: one of them has lost the
/// name it was opened by and still has others, which nobody tells.
std::optional<FileSet> files_open_for_writing(const std::vector<pid_t>& pids, int upper);

}  // namespace migrate
