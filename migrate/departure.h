#pragma once
#include <cstdint>
#include <string>

#include "base/context.h"
#include "base/error.h"
#include "box/config.h"

namespace migrate {

/// What a node does with a box that was to leave it, whoever finds out first: the source's command, or
/// `recover`. All of it can be repeated.

/// Before the commit point: the box goes on here as if nothing had happened. False: it has ended.
bool keep_box(const base::Context& context, const box::Config& config);
/// `e`, with what the operator can do for a box that has ended while it was frozen.
base::Error with_lost_box(const base::Error& e, const std::string& box);
/// After the destination's confirmation: what is left of the box here goes.
void forget_box(const base::Context& context, const box::Config& config, uint64_t new_epoch);

}  // namespace migrate
