#include "base/kernel.h"

#include <sys/utsname.h>

#include <cstdio>

namespace base {

std::pair<int, int> kernel_version() {
  utsname name{};
  int major = 0, minor = 0;
  if (::uname(&name) != 0 || std::sscanf(name.release, "%d.%d", &major, &minor) != 2) return {0, 0};
  return {major, minor};
}

}  // namespace base
