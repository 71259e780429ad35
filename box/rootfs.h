#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "base/context.h"
#include "base/fd.h"
#include "box/config.h"
#include "box/node.h"

namespace box {

/// Makes an empty private layer (private/upper, private/work), or the directories for an image to come.
void make_private_layer(const Config& config, const Paths& paths);

/// Mounts the layers of a box that is to arrive, each once per node with direct I/O; returns where, the top
/// one first. They stay for as long as it is arriving (arriving_paths_of).
std::vector<std::string> mount_layers(const base::Context& context, const Config& config);
/// Mounts the box's root at paths.root: an overlay of its template's layers, mounted as above, and its
/// private layer, all shifted into the box's ids.
void mount_root(const base::Context& context, const Config& config, const Paths& paths);
/// Undoes it, and unmounts layers that no other box uses any more, mounted or arriving. Nothing mounted is
/// fine.
void unmount_root(const base::Context& context, const Paths& paths);

/// Digests of the box's layers that this node does not have.
std::vector<std::string> missing_layers(const base::Context& context, const Config& config);
/// Sends what the other node lacks of the box's template to its `template receive`; returns bytes.
uint64_t send_layers(base::Context& context, const Config& config, int in, int out);

}  // namespace box
