#pragma once
#include <string>

#include "base/child.h"
#include "bootstrap/node_files.h"

namespace bootstrap {

/// Puts a tmpfs over the directory `path` of a read-only root, with what the image has there. `options` are
/// the tmpfs's.
void make_writable(const std::string& path, const std::string& options);

/// Writes `files` below `root` ("" for the root itself), and replaces what the image has there.
void write_node_files(const NodeFiles& files, const std::string& root);

/// node.toml of `state_dir`. Where it is broken, what is wrong is said on the console, and the node is as if
/// it had none: it has to be in reach to be mended.
NodeConfig read_node_config(const std::string& state_dir);

/// Marks /etc and /var as made for this /usr, whose time they get: systemd would otherwise renew what the
/// image has (systemd-update-done.service(8)).
void mark_as_updated(const std::string& root);

/// `drover-node bootstrap start`: process 1 of a slot's root between the initrd and systemd. Data, /etc,
/// /var; then it becomes /sbin/init. Throws with a sentence for the console.
void start_node(base::Runner& runner);

}  // namespace bootstrap
