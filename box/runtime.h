#pragma once
#include <sys/types.h>

#include "base/context.h"
#include "base/fd.h"
#include "box/config.h"
#include "box/network.h"
#include "box/node.h"

namespace box {

/// The parts of a box that lie outside of it, in the order in which they are made. `start` and
/// the destination of a move build on the same ones.

/// Makes RUN/boxes/NAME, mounts the root, makes an empty control group.
void set_up_outside(const base::Context& context, const Config& config, const Paths& paths);
/// Makes the veth pair, where that is given with eth0 in the box's namespace at once. Its host end is down.
void make_cable(const Config& config, const std::optional<Inside>& inside = {});
/// Puts the host end on the bridge, shut: no frame passes yet.
void plug_in_cable(const Config& config);
/// The box's network namespace, by its process 1.
base::Fd netns_of(pid_t init);
/// Lets the box's own frames pass.
void open_network(const Config& config);
/// Waits until frames pass through the cable. What a box says before that is lost without a word, and a
/// connection that was restored, which knows no round-trip time, says it again only after a whole second.
/// Warns when it takes longer than a second.
void await_carrier(const Config& config, int netns_fd);

/// Everything of a box that a reboot would take away: processes, veth, rules, mounts. Safe to
/// repeat, and safe on what was never there.
void tear_down(const base::Context& context, const Paths& paths, std::string_view name);

}  // namespace box
