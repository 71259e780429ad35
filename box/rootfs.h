#pragma once
#include <string>

#include "base/context.h"
#include "base/fd.h"
#include "box/config.h"
#include "box/node.h"

namespace box {

/// Makes an empty private layer (private/upper, private/work).
void make_private_layer(const Paths& paths);

/// Mounts the box's root at paths.root: an overlay of its template's layers, each mounted once
/// per node with direct I/O, and its private layer, all shifted into the box's ids.
void mount_root(const base::Context& context, const Config& config, const Paths& paths);
/// Undoes it, and unmounts layers that no mounted box uses any more. Nothing mounted is fine.
void unmount_root(const base::Context& context, const Paths& paths);

}  // namespace box
