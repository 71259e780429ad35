#pragma once
#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "box/address.h"
#include "box/net_settings.h"

namespace box {

/// A network device, as far as it is carried.
struct NetLink {
  uint32_t index = 0;
  uint32_t flags = 0;  ///< IFF_… that can be set
  uint32_t mtu = 0;
  uint32_t queue = 0;  ///< txqueuelen
  Mac mac;             ///< none for lo

  bool operator==(const NetLink&) const = default;
};

/// One kind of what a network namespace holds, in the kernel's own form: each a netlink content.
using NetContents = std::vector<std::string>;

/// All of a box's network namespace, where that is no more than most boxes have: lo, eth0, and what belongs
/// to them (docs/formats/box-network.md). CRIU carries it with helper programs, and moves the cable's end
/// into the namespace; both takes long, and all of it in the freeze.
struct NetState {
  NetLink lo, eth0;
  NetContents addresses, routes, rules, neighbours;
  NetSettings settings;
  std::string firewall;  ///< the box's own, as `nft list ruleset` writes it

  bool operator==(const NetState&) const = default;

  /// Of a frozen box, but for the settings. nullopt where the namespace holds what is not known here, or is
  /// not the only one: that is CRIU's to carry.
  static std::optional<NetState> record(const std::vector<pid_t>& pids, int netns_fd);
  /// Puts all of it into the namespace, in which there is eth0, down, and nothing else.
  void put_into(int netns_fd, uint32_t id_base) const;

  /// Nothing in the text is trusted. Throws an Error.
  static NetState parse(std::string_view json);
  [[nodiscard]] std::string render() const;  ///< throws as check() does
  /// Throws an Error for what is not known here.
  void check() const;
};

/// The flags of a device that are carried: those that somebody sets.
extern const uint32_t kNetLinkFlags;

/// What kinds of contents there are, and which parts of them are known.
struct NetKind {
  const char* name;             ///< for messages: "an address"
  uint16_t make, remove, list;  ///< RTM_…
  size_t head;                  ///< size of the struct that a content begins with
  uint64_t known;               ///< attributes, as bits
  uint64_t left_out;            ///< attributes that tell of the moment, likewise
};
extern const NetKind kNetAddress, kNetRoute, kNetRule, kNetNeighbour;

/// The content without what tells of the moment: so that two kernels that hold the same tell the same.
/// nullopt for what the kernel makes by itself, or forgets by itself.
std::optional<std::string> lasting(const NetKind& kind, std::string_view content);

}  // namespace box
