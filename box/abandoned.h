#pragma once
#include <sys/types.h>

#include "box/cgroup.h"

namespace box {

/// Undoes what a CRIU that was killed while it dumped a box has left on it: the lock on its network, and TCP
/// connections in repair mode, in which nothing is sent or received. Nothing to do is fine. The box is
/// frozen. What it cannot undo: code of CRIU's in a task. Killed at that moment, CRIU takes the task with it.
void undo_criu(const Cgroup& group, pid_t init);

}  // namespace box
