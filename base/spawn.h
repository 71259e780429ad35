#pragma once
#include <map>
#include <string>
#include <vector>

#include "base/fd.h"

namespace base {

/// A process that was just started, not yet owned by anyone.
struct Process {
  pid_t pid;
  Fd pidfd;
};

/// Starts argv, looked up in PATH and then in the sbin directories, with the three
/// descriptors as its standard streams and no other one open. It has a session of its own (no
/// terminal to ask questions on; `kill(-pid)` reaches what it starts), default signals,
/// and gets SIGKILL when the calling thread dies. Throws when exec fails.
Process spawn(const std::vector<std::string>& argv, const std::map<std::string, std::string>& env,
              const std::string& cwd, int in, int out, int err);

}  // namespace base
