#pragma once
#include <cstdint>
#include <string>

#include "base/context.h"
#include "templates/manifest.h"

namespace templates {

/// From the upper directory of an overlay, leaves what differs from `lower`: files that were
/// only touched go, and so does what overlayfs notes there for itself. Whiteouts (char 0:0) and
/// `trusted.overlay.opaque` stay: they say what went away.
void reduce_upper(const std::string& upper, const std::string& lower);

/// Packs the tree into an erofs image `file`: the same tree and `seed` give the same bytes.
/// `most` is how large it can become.
Layer pack(base::Context& context, const std::string& root, int64_t clock, const std::string& seed,
           uint64_t most, const std::string& file);

}  // namespace templates
