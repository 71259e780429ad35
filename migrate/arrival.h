#pragma once
#include <functional>
#include <string>

#include "base/context.h"
#include "box/node.h"

namespace migrate {

/// What a node does with a box that was on its way here, whoever finds out first: the receiving
/// process, or `recover`. All of it can be repeated.

/// The box never came: processes, cable, files and journal go.
void drop_arrival(const base::Context& context, const std::string& name);
/// Drops what an earlier move left, if it had not been prepared; throws when it had.
void clear_old_arrival(const base::Context& context, const std::string& name);
/// The box is this node's: journal, network, resume, announcement, then `resumed` (may be empty),
/// then what can wait. Where its frozen processes did not survive (this node was restarted), it is
/// started from its disk, as after a power cut.
void take_over(const base::Context& context, const std::string& name,
               const std::function<void()>& resumed = {});

}  // namespace migrate
