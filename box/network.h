#pragma once
#include <chrono>
#include <string>
#include <string_view>
#include <vector>

#include "box/address.h"

namespace box {

/// A box's cable: a veth pair. The host end is a port of the node's bridge, the other end becomes
/// eth0 in the box. Unless a function takes a network namespace, it works in the caller's.
/// Names of interfaces have at most 15 characters (IFNAMSIZ), so both come from a hash of the
/// box's name (48 bits of SHA-256): the same on every node.
std::string host_end_name(std::string_view box_name);   ///< "vb" and 12 hex digits
std::string other_end_name(std::string_view box_name);  ///< "vp" and the same; until it is eth0

/// Throws "there is no bridge br0 on this node".
unsigned bridge_mtu(const std::string& bridge);
/// The bridge's own addresses, with prefix lengths, link-local ones left out.
std::vector<Address> bridge_addresses(const std::string& bridge);
/// The gateways of this node's default routes, the preferred first; of both families.
std::vector<Address> default_gateways();

/// Both ends are down. The host end has no IPv6 of its own, and a MAC fe:… so high that a bridge
/// with an uplink never takes it over as its own: that would cut the node's own connections.
/// With `inside` the other end is made in that namespace, where it has the name: what takes 2 ms there takes
/// 15 when it has to move.
struct Inside {
  int netns_fd = -1;
  unsigned index = 0;
  Mac mac;
};
void create_veth(const std::string& host_end, const std::string& other_end, unsigned mtu,
                 const std::optional<Inside>& inside = {});
/// The bridge keeps the MAC that it has.
void attach_to_bridge(const std::string& host_end, const std::string& bridge);
void set_up(const std::string& link);
void delete_link(const std::string& link);  ///< its other end goes with it; absent is fine
bool link_exists(const std::string& link);

/// What the box's end of the cable becomes.
struct Eth0 {
  Mac mac;
  std::vector<Address> addresses;  ///< each with a prefix length
  std::vector<Address> gateways;   ///< default routes; one outside of every prefix is reached on-link
};

/// Moves `other_end` into the namespace and makes it eth0: up, with these addresses usable at once
/// (no duplicate address detection: `probe` in announce.h looks before) and no others (router
/// advertisements are not listened to). Brings lo up. The namespace may belong to another user
/// namespace. The caller's own namespace stays what it is. After an Error the cable may lie half
/// inside: delete the host end.
void move_into(const std::string& other_end, int netns_fd, const Eth0& eth0);

/// Whether there is such an interface in the caller's network namespace, and is set up.
bool is_set_up(const std::string& link);

/// Waits until frames pass between that namespace's eth0 and the bridge. After both ends are set up the
/// kernel's link watch has to run, and what is sent before that is lost without a word. At once where there
/// is nothing to wait for: one end is not there, or the box keeps its own down. False when `timeout` passed
/// first.
bool wait_for_carrier(const std::string& host_end, int netns_fd, std::chrono::milliseconds timeout);

/// Whose MAC the kernel has asked for on that interface and was not told yet: what it has for them waits.
/// Works in the caller's network namespace.
std::vector<Address> unanswered_lookups(const std::string& link);

/// The addresses that eth0 in that namespace has now, link-local ones left out; empty without eth0.
std::vector<Address> box_addresses(int netns_fd);

}  // namespace box
