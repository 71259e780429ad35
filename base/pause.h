#pragma once
#include <string_view>

namespace base {

/// A place with a name, for crash tests: where DROVER_PAUSE_AT in the environment is that name,
/// the process stops itself with SIGSTOP (once). The test then kills it, cuts a cable or whatever it is
/// about, and lets what is left go on with SIGCONT. Otherwise this does nothing.
void pause_point(std::string_view name);

}  // namespace base
