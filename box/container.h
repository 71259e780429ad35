#pragma once
#include <sys/types.h>

#include <string>
#include <vector>

#include "base/context.h"
#include "box/config.h"
#include "box/node.h"

namespace box {

/// The file in the box that takes what process 1 writes to its stdout and stderr.
inline constexpr const char* kLogFile = "/var/log/box.log";

/// Capabilities that a box's root has over its own namespaces (capabilities(7)).
const std::vector<int>& capability_numbers();

/// Lets crun make the namespaces and process 1, which waits. Returns its pid on the node.
pid_t create_container(const base::Context& context, const Config& config, const Paths& paths);
/// Lets process 1 go on to the template's init. crun is not asked again: a box that CRIU
/// restored was never crun's, so drover knows every box by its cgroup.
void start_container(const base::Context& context, const Config& config, const Paths& paths);

/// crun's config.json for the box (OCI runtime specification 1.2).
std::string container_config(const Config& config, const Paths& paths);

}  // namespace box
