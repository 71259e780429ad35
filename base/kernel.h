#pragma once
#include <utility>

namespace base {

/// Of the running kernel (uname(2)): {6, 12} for "6.12.117+deb13-amd64"; {0, 0} for what has another form.
std::pair<int, int> kernel_version();

}  // namespace base
