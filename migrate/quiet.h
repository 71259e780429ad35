#pragma once
#include <sys/types.h>

#include <string>
#include <vector>

#include "box/cgroup.h"

namespace migrate {

/// Whether something has arrived for a process and waits to be fetched that CRIU 4.2 loses or fails at:
/// connections that nobody has accepted, events of inotify and messages of netlink that nobody has read.
bool something_waits(const std::vector<pid_t>& pids);

/// Whether one of a process's threads has called vfork(2) and waits for its child to run another program,
/// deaf to all but SIGKILL. The freezer takes that for frozen, and CRIU 4.2 gives up on it after ten seconds.
bool is_in_vfork(pid_t pid);

/// Whether a client is about to connect over TCP: its handshake is not over, or nobody has accepted it.
/// CRIU 4.2 keeps nothing of that, and the client, who takes itself for connected, would get a reset.
bool somebody_connects(pid_t init);

/// Freezes a box at a moment when nothing waits and nobody is in vfork, for which it lets it run some
/// milliseconds more, some times. What is so still then stays as it is (docs/what-moves.md). The box's
/// network is shut: nothing new comes.
void freeze_quiet(const box::Cgroup& group);

/// Whether a process has made a context for asynchronous requests (io_setup(2)).
bool may_request(pid_t pid);

/// Of a box that is frozen: waits until its asynchronous requests have ended, which no freezer stops and CRIU
/// 4.2 does not wait for: what is read or written later, and the word that it was, would be lost. The kernel
/// does not say how many there are: so until the disk of the box's files, which are in `directory`, has
/// nothing to do and no request has ended for 50 ms; or for half a second, where others use that disk or
/// nobody knows. Throws when they still end after two seconds.
void wait_for_requests(const std::vector<pid_t>& pids, const std::string& directory);

}  // namespace migrate
