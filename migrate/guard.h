#pragma once
#include <string>
#include <utility>

#include "base/child.h"
#include "base/fd.h"

namespace migrate {

/// While a box's memory is still on its way, only open userfaultfds keep the missing pages from reading
/// as zeros. The guard is a process that holds a second descriptor of each. When the one that
/// brings the memory dies, it kills the box, which then can be started from its disk: better no
/// box than one with wrong memory.

/// Starts `drover-node guard CGROUP`; the socket is our end to it.
std::pair<base::Fd, base::Child> start_guard(const std::string& cgroup);
/// All memory is there: the guard ends and leaves the box alone.
void release_guard(const base::Fd& socket);

/// The guard itself. Returns when it was released, or has killed the box.
void guard_memory(int socket, const std::string& cgroup);

/// A process that holds a userfaultfd of every process that a box makes needs more files than the usual 1024.
void raise_file_limit();

/// One descriptor over a unix socket (unix(7), SCM_RIGHTS).
void send_descriptor(int socket, int fd);
base::Fd receive_descriptor(int socket);

}  // namespace migrate
