#pragma once
#include <optional>
#include <string>
#include <string_view>

#include "base/child.h"

namespace bootstrap {

/// The file system that a device's first bytes say it has: "ext4" or "xfs"; nullopt for any other. (ext4(5):
/// 0xEF53 at 1080, little endian; xfs: "XFSB" at 0.)
std::optional<std::string> file_system_of(const std::string& device);

/// Mounts the node's data at `target`, an ext4 after `e2fsck -p`, which repairs what needs no decision.
/// Throws where the partition has neither file system, or needs a person to repair it.
void mount_data(base::Runner& runner, const std::string& device, const std::string& target);

/// The node's machine-id(5) in `state_dir`, made for the first time. One that is no machine-id is replaced,
/// and that is said.
std::string machine_id(const std::string& state_dir);

/// The SSH host key in STATE_DIR/ssh, made by ssh-keygen for the first time. When power fails in between it
/// is made anew, and never half there.
void ensure_host_key(base::Runner& runner, const std::string& state_dir);
constexpr std::string_view kHostKey = "ssh_host_ed25519_key";

}  // namespace bootstrap
