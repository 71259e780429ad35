#pragma once
#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "box/config.h"

namespace migrate {

/// Looks at all that a box's processes hold (proc(5)), and throws one sentence that names the process, and a
/// hint, for the first thing that CRIU 4.2 cannot take along, or would make again as something else without a
/// word (docs/what-moves.md). Changes nothing; the box may run meanwhile.
void require_movable(const box::Config& box, const std::vector<pid_t>& pids, pid_t init);

/// Bytes of files that a box's processes have open or mapped and that have no name any more: CRIU writes them
/// into the images.
uint64_t deleted_bytes(const std::vector<pid_t>& pids);
/// Bytes of files on the tmpfs that this process of the box sees.
uint64_t tmpfs_bytes(pid_t pid);

}  // namespace migrate
