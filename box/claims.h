#pragma once
#include <optional>
#include <string>

#include "base/context.h"
#include "box/config.h"

namespace box {

/// What two boxes on one node cannot both have.
struct Clash {
  enum class What { kAddress, kMac, kIds };
  What what;
  std::string value;  ///< "address 192.0.2.10", "MAC 02:…", "range of user ids 131072"
  std::string box;    ///< the other one
};

/// The first thing of `config` that another box of this node has: running, stopped, given away and not
/// yet forgotten, or on its way here. Only what is done under the node's lock (lock_node) can rely on it.
std::optional<Clash> find_clash(const base::Context& context, const Config& config);

}  // namespace box
