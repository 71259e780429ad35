#pragma once
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace bootstrap {

/// What node.toml says about one node (docs/formats/node-toml.md). All of it may be absent.
struct NodeConfig {
  struct Interface {
    std::string mac;     ///< "52:54:00:77:01:01"
    bool bridge = true;  ///< a port of br0, which then has the addresses; else it has them itself
    bool dhcp = false;   ///< also where it has addresses
    std::vector<std::string> addresses = {};  ///< "10.77.0.1/24"
    std::vector<std::string> gateways = {};   ///< at most one of each family
    unsigned mtu = 0;                         ///< 0: as the driver has it
  };
  struct User {
    std::string name;
    std::vector<std::string> keys;  ///< lines of authorized_keys
  };

  std::string name;  ///< empty: after the first MAC
  std::vector<Interface> interfaces;
  std::vector<User> users;  ///< root too
  std::vector<std::string> time_servers, dns, search;
  std::string boot_server;  ///< URL
};

/// `file` is its name in messages, which are base::TomlTable's: "FILE:LINE: KEY: expected …, found …".
NodeConfig parse_node_config(std::string_view text, const std::string& file);

/// An address as text: 4, 6, or nullopt when it is none. With `prefix` it is ADDRESS/BITS.
std::optional<int> family_of(const std::string& text, bool prefix);

/// What a host may be called: letters, digits and hyphens, 63 at most (RFC 1123, one label; the kernel takes
/// 64).
bool is_host_name(std::string_view name);

}  // namespace bootstrap
