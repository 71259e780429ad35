#pragma once
#include <cstdint>

#include "migrate/plan.h"
#include "migrate/wire.h"

namespace migrate {

/// Sends random bytes (kNoise), which the destination throws away: ever more of them, up to `most`, as long
/// as the next ones are likely to take less than a second. Returns what went best: so fast the wire carries
/// what cannot be packed.
Sent send_noise(Wire& wire, uint64_t most);

}  // namespace migrate
