#pragma once
#include <string>

#include "base/fd.h"

namespace migrate {

/// A unix(7) stream socket below a directory, whatever the length of its path (sun_path has 108 bytes).
base::Fd listen_in(const std::string& dir, const std::string& name);
base::Fd connect_in(const std::string& dir, const std::string& name);

}  // namespace migrate
