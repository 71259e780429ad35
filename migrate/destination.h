#pragma once
#include "base/context.h"
#include "migrate/wire.h"

namespace migrate {

/// `drover-node receive`: serves one request of another node on these descriptors: a box that
/// moves here, or a question or decision about a move that was cut off (settle.h). Errors go to
/// the other node as well.
void receive(const base::Context& context, int in, int out);

}  // namespace migrate
