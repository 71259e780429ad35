#pragma once
#include <sys/types.h>

#include <optional>
#include <string>

#include "migrate/verdict.h"

namespace migrate {

/// Why the socket behind a descriptor of a process cannot be moved; nullopt: it can, or was closed meanwhile.
/// `number`: as /proc/PID/fd names it.
std::optional<Verdict> look_at_socket(pid_t pid, const std::string& number);

}  // namespace migrate
