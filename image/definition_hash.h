#pragma once
#include <string>

#include "image/definition.h"

namespace image {

/// Definition::hash of the rest of it.
std::string hash_of(const Definition& definition);

}  // namespace image
