#pragma once
#include <sys/types.h>

#include <map>
#include <string>
#include <vector>

#include "bootstrap/node_config.h"

namespace bootstrap {

/// What the files in /etc are made from, beside the image.
struct NodeFacts {
  NodeConfig config = {};
  std::vector<std::string> macs = {};  ///< of the machine's Ethernet ports, in the order of their numbers
  std::string machine_id;
  std::string esp = {};   ///< "/dev/vda2"; empty: there is none
  bool resolved = false;  ///< the image has systemd-resolved
  bool network = false;   ///< it was started from the network: there is no slot to confirm
};

struct NodeFile {
  mode_t mode = 0644;
  std::string content;
  bool link = false;  ///< `content` is where it leads
  bool operator==(const NodeFile&) const = default;
};

/// Files by their absolute paths; root's, as are the directories that they need.
using NodeFiles = std::map<std::string, NodeFile>;
NodeFiles node_files(const NodeFacts& facts);

/// Of node.toml, or "node-" and the last six digits of the first MAC, without a MAC of the machine-id.
std::string node_name(const NodeFacts& facts);

/// Sentences about what node.toml says and this machine has not; what node_files() does then stands in them.
std::vector<std::string> doubts(const NodeFacts& facts);

}  // namespace bootstrap
