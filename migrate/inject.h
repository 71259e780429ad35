#pragma once
#include <sys/types.h>

#include <chrono>

#include "base/fd.h"

namespace migrate {

/// A userfaultfd(2) of another process's memory. Only the process itself can make one: one of its threads is
/// stopped (ptrace(2)), makes the system call, gives us the descriptor, closes its own, and goes on where it
/// was, be that in the middle of a system call. Its other threads never stop. It gets no signal, and no code
/// or memory of it is changed.
///
/// An empty Fd: it cannot be had. The process has ended, is stopped, frozen, traced or in uninterruptible
/// sleep for longer than `patience`, is not of x86-64, has no vDSO or no room for one more descriptor.
///
/// The work is done in a process of its own, so that whoever kills this one in the middle does no harm to the
/// other.
base::Fd inject_userfaultfd(pid_t process, std::chrono::milliseconds patience);

}  // namespace migrate
