#include "box/network.h"

#include <linux/if.h>
#include <linux/if_addr.h>
#include <linux/rtnetlink.h>
#include <netlink/netlink.h>
#include <netlink/route/addr.h>
#include <netlink/route/link.h>
#include <netlink/route/link/veth.h>
#include <netlink/route/neighbour.h>
#include <netlink/route/nexthop.h>
#include <netlink/route/route.h>

#include <algorithm>
#include <format>
#include <memory>
#include <optional>
#include <thread>
#include <utility>

#include "base/error.h"
#include "base/fd.h"
#include "base/hash.h"
#include "base/undo.h"
#include "box/netns.h"

namespace box {

namespace {

template <auto release>
struct Release {
  void operator()(auto* object) const { release(object); }
};
using Link = std::unique_ptr<rtnl_link, Release<rtnl_link_put>>;
using LinkAddress = std::unique_ptr<rtnl_addr, Release<rtnl_addr_put>>;
using Route = std::unique_ptr<rtnl_route, Release<rtnl_route_put>>;
using NlAddress = std::unique_ptr<nl_addr, Release<nl_addr_put>>;
using Cache = std::unique_ptr<nl_cache, Release<nl_cache_free>>;
using NlSocket = std::unique_ptr<nl_sock, Release<nl_socket_free>>;

/// libnl's allocators return nullptr for one reason only.
template <class T>
T* there(T* object) {
  if (object == nullptr) throw std::bad_alloc();
  return object;
}

base::Error nl_error(std::string_view what, int failure) {
  return base::error("{}: {}", what, nl_geterror(failure));
}

/// A route socket in the network namespace of the calling thread.
class Netlink {
 public:
  Netlink() : socket_(there(nl_socket_alloc())) {
    const int failure = nl_connect(get(), NETLINK_ROUTE);
    if (failure < 0) throw nl_error("cannot open a netlink socket", failure);
  }
  [[nodiscard]] nl_sock* get() const { return socket_.get(); }

  [[nodiscard]] Link find(const std::string& name) const {
    rtnl_link* link = nullptr;
    const int failure = rtnl_link_get_kernel(get(), 0, name.c_str(), &link);
    if (failure == -NLE_NODEV || failure == -NLE_OBJ_NOTFOUND) return nullptr;
    if (failure < 0) throw nl_error(std::format("cannot look up the interface {}", name), failure);
    return Link(link);
  }
  [[nodiscard]] Link need(const std::string& name) const {
    Link link = find(name);
    if (!link) throw base::error("there is no interface {} on this node", name);
    return link;
  }
  [[nodiscard]] Link need_bridge(const std::string& name) const {
    Link link = find(name);
    if (!link)
      throw base::error("there is no bridge {} on this node", name)
          .hint(std::format("make it, or name another one: ip link add {} type bridge", name));
    const char* type = rtnl_link_get_type(link.get());
    if (type == nullptr || std::string_view(type) != "bridge")
      throw base::error("{} is not a bridge", name)
          .hint("`ip link show type bridge` lists this node's bridges");
    return link;
  }
  void change(rtnl_link* link, rtnl_link* changes, std::string_view what) const {
    const int failure = rtnl_link_change(get(), link, changes, 0);
    if (failure < 0) throw nl_error(what, failure);
  }

 private:
  NlSocket socket_;
};

bool is_set_up(const Link& link) { return link && (rtnl_link_get_flags(link.get()) & IFF_UP) != 0; }

NlAddress nl_address(const Address& address) {
  NlAddress built(there(nl_addr_build(address.family, address.bytes.data(), address.is_v4() ? 4 : 16)));
  if (address.prefix) nl_addr_set_prefixlen(built.get(), static_cast<int>(*address.prefix));
  return built;
}

NlAddress nl_address(const Mac& mac) { return NlAddress(there(nl_addr_build(AF_LLC, mac.bytes.data(), 6))); }

/// nullopt for what is no IP address.
std::optional<Address> from_nl(nl_addr* given) {
  if (given == nullptr) return std::nullopt;
  Address address;
  address.family = nl_addr_get_family(given);
  const unsigned length = nl_addr_get_len(given);
  if (!(address.family == AF_INET && length == 4) && !(address.family == AF_INET6 && length == 16))
    return std::nullopt;
  std::copy_n(static_cast<const uint8_t*>(nl_addr_get_binary_addr(given)), length, address.bytes.data());
  return address;
}

std::string hashed(std::string_view box_name) { return base::sha256_hex(box_name).substr(0, 12); }

/// The host end's own MAC, made from its name: fe:….
Mac host_end_mac(const std::string& host_end) {
  const std::string hex = base::sha256_hex(host_end);
  Mac mac;
  mac.bytes[0] = 0xfe;
  for (size_t i = 1; i < 6; ++i)
    mac.bytes[i] = static_cast<uint8_t>(std::stoul(hex.substr(i * 2, 2), nullptr, 16));
  return mac;
}

/// The host end's interface index, made from its name: far above those that the kernel gives out.
/// Where both ends have the same index, each in its namespace, the kernel (net/core/link_watch.c)
/// takes neither for one end of a pair and lets a new carrier wait for up to a second.
int host_end_index(const std::string& host_end) {
  return 0x40000000 | std::stoi(base::sha256_hex(host_end).substr(12, 7), nullptr, 16);
}

/// Writes one of the interface's IPv6 settings; a kernel without IPv6 has none.
void set_ipv6(const std::string& link, std::string_view key, std::string_view value) {
  const std::string path = std::format("/proc/sys/net/ipv6/conf/{}/{}", link, key);
  if (base::exists(path)) base::write_file(path, value);
}

std::vector<Address> addresses_of(const Netlink& netlink, rtnl_link* link) {
  nl_cache* filled = nullptr;
  const int failure = rtnl_addr_alloc_cache(netlink.get(), &filled);
  if (failure < 0) throw nl_error("cannot list addresses", failure);
  const Cache cache(filled);
  std::vector<Address> found;
  for (nl_object* at = nl_cache_get_first(cache.get()); at != nullptr; at = nl_cache_get_next(at)) {
    // A cache of addresses holds rtnl_addr only; libnl's own programs cast the same way.
    auto* entry = reinterpret_cast<rtnl_addr*>(at);
    if (rtnl_addr_get_ifindex(entry) != rtnl_link_get_ifindex(link)) continue;
    if (rtnl_addr_get_scope(entry) != RT_SCOPE_UNIVERSE && rtnl_addr_get_scope(entry) != RT_SCOPE_SITE)
      continue;
    std::optional<Address> address = from_nl(rtnl_addr_get_local(entry));
    if (!address) continue;
    address->prefix = static_cast<unsigned>(rtnl_addr_get_prefixlen(entry));
    found.push_back(*address);
  }
  return found;
}

void raise(const Netlink& netlink, rtnl_link* link, const std::string& name) {
  const Link changes(there(rtnl_link_alloc()));
  rtnl_link_set_flags(changes.get(), IFF_UP);
  netlink.change(link, changes.get(), std::format("cannot set {} up", name));
}

void add_address(const Netlink& netlink, rtnl_link* link, const Address& address) {
  const LinkAddress entry(there(rtnl_addr_alloc()));
  rtnl_addr_set_ifindex(entry.get(), rtnl_link_get_ifindex(link));
  const NlAddress local = nl_address(address);
  int failure = rtnl_addr_set_local(entry.get(), local.get());
  if (address.is_v4() && *address.prefix < 31) {
    Address broadcast = address;
    for (unsigned i = *address.prefix; i < 32; ++i)
      broadcast.bytes[i / 8] = static_cast<uint8_t>(broadcast.bytes[i / 8] | 0x80 >> i % 8);
    const NlAddress all = nl_address(broadcast);
    if (failure == 0) failure = rtnl_addr_set_broadcast(entry.get(), all.get());
  }
  if (!address.is_v4()) rtnl_addr_set_flags(entry.get(), IFA_F_NODAD);
  if (failure == 0) failure = rtnl_addr_add(netlink.get(), entry.get(), NLM_F_EXCL);
  if (failure < 0)
    throw nl_error(std::format("cannot give the address {} to eth0", address.to_string()), failure);
}

void add_default_route(const Netlink& netlink, rtnl_link* link, const Address& gateway, const Eth0& eth0) {
  const Route route(there(rtnl_route_alloc()));
  NlAddress everything(there(nl_addr_alloc(16)));
  nl_addr_set_family(everything.get(), gateway.family);
  nl_addr_set_prefixlen(everything.get(), 0);
  int failure = rtnl_route_set_family(route.get(), static_cast<uint8_t>(gateway.family));
  if (failure == 0) failure = rtnl_route_set_dst(route.get(), everything.get());
  rtnl_route_set_protocol(route.get(), RTPROT_STATIC);
  rtnl_route_set_scope(route.get(), RT_SCOPE_UNIVERSE);

  rtnl_nexthop* hop = there(rtnl_route_nh_alloc());
  Address host = gateway;
  host.prefix.reset();
  const NlAddress via = nl_address(host);
  rtnl_route_nh_set_ifindex(hop, rtnl_link_get_ifindex(link));
  rtnl_route_nh_set_gateway(hop, via.get());
  const bool near =
      std::ranges::any_of(eth0.addresses, [&](const Address& a) { return a.contains(gateway); });
  if (!near) rtnl_route_nh_set_flags(hop, RTNH_F_ONLINK);
  rtnl_route_add_nexthop(route.get(), hop);  // the route owns it from here
  if (failure == 0) failure = rtnl_route_add(netlink.get(), route.get(), NLM_F_EXCL);
  if (failure < 0) throw nl_error(std::format("cannot set the default route by {}", gateway.host()), failure);
}

/// The part of move_into that happens in the box's namespace.
void furnish(const Eth0& eth0) {
  const Netlink netlink;
  const Link lo = netlink.need("lo");
  raise(netlink, lo.get(), "lo");
  const Link link = netlink.need("eth0");
  // The firewall lets no other address out, so the box must not make itself any; and its
  // link-local address is its own by its MAC: waiting a second to see that would delay every start.
  set_ipv6("eth0", "accept_ra", "0");
  set_ipv6("eth0", "autoconf", "0");
  set_ipv6("eth0", "accept_dad", "0");
  raise(netlink, link.get(), "eth0");
  for (const Address& address : eth0.addresses) add_address(netlink, link.get(), address);
  for (const Address& gateway : eth0.gateways) add_default_route(netlink, link.get(), gateway, eth0);
}

}  // namespace

std::string host_end_name(std::string_view box_name) { return "vb" + hashed(box_name); }
std::string other_end_name(std::string_view box_name) { return "vp" + hashed(box_name); }

unsigned bridge_mtu(const std::string& bridge) {
  const Netlink netlink;
  return rtnl_link_get_mtu(netlink.need_bridge(bridge).get());
}

std::vector<Address> bridge_addresses(const std::string& bridge) {
  const Netlink netlink;
  return addresses_of(netlink, netlink.need_bridge(bridge).get());
}

std::vector<Address> default_gateways() {
  const Netlink netlink;
  nl_cache* filled = nullptr;
  const int failure = rtnl_route_alloc_cache(netlink.get(), AF_UNSPEC, 0, &filled);
  if (failure < 0) throw nl_error("cannot list routes", failure);
  const Cache cache(filled);
  std::vector<std::pair<uint32_t, Address>> found;
  for (nl_object* at = nl_cache_get_first(cache.get()); at != nullptr; at = nl_cache_get_next(at)) {
    auto* route = reinterpret_cast<rtnl_route*>(at);
    nl_addr* target = rtnl_route_get_dst(route);
    if (rtnl_route_get_table(route) != RT_TABLE_MAIN || rtnl_route_get_type(route) != RTN_UNICAST) continue;
    if (target != nullptr && nl_addr_get_prefixlen(target) != 0) continue;
    for (int i = 0; i < rtnl_route_get_nnexthops(route); ++i)
      if (auto gateway = from_nl(rtnl_route_nh_get_gateway(rtnl_route_nexthop_n(route, i))))
        found.emplace_back(rtnl_route_get_priority(route), *gateway);
  }
  std::ranges::stable_sort(found, {}, [](const auto& entry) { return entry.first; });
  std::vector<Address> gateways;
  for (const auto& entry : found) gateways.push_back(entry.second);
  return gateways;
}

void create_veth(const std::string& host_end, const std::string& other_end, unsigned mtu,
                 const std::optional<Inside>& inside) {
  const Netlink netlink;
  const Link pair(there(rtnl_link_veth_alloc()));
  const Link peer(there(rtnl_link_veth_get_peer(pair.get())));
  rtnl_link_set_name(pair.get(), host_end.c_str());
  rtnl_link_set_name(peer.get(), other_end.c_str());
  rtnl_link_set_mtu(pair.get(), mtu);
  rtnl_link_set_mtu(peer.get(), mtu);
  NlAddress inner_mac;
  if (inside) {
    inner_mac = nl_address(inside->mac);
    rtnl_link_set_addr(peer.get(), inner_mac.get());
    rtnl_link_set_ifindex(peer.get(), static_cast<int>(inside->index));
    rtnl_link_set_ns_fd(peer.get(), inside->netns_fd);
  }
  const NlAddress mac = nl_address(host_end_mac(host_end));
  rtnl_link_set_addr(pair.get(), mac.get());
  rtnl_link_set_ifindex(pair.get(), host_end_index(host_end));

  int failure = rtnl_link_add(netlink.get(), pair.get(), NLM_F_CREATE | NLM_F_EXCL);
  const auto name_is_free = [&] { return !netlink.find(host_end) && (inside || !netlink.find(other_end)); };
  if (failure == -NLE_EXIST && name_is_free()) {
    rtnl_link_set_ifindex(pair.get(), 0);  // somebody has that index: the kernel chooses another
    failure = rtnl_link_add(netlink.get(), pair.get(), NLM_F_CREATE | NLM_F_EXCL);
  }
  if (failure == -NLE_EXIST)
    throw base::error("there is an interface {} or {} on this node already", host_end, other_end);
  if (failure < 0)
    throw nl_error(std::format("cannot make the veth pair {} and {}", host_end, other_end), failure);
  base::Undo undo;
  undo.add("delete " + host_end, [&] { delete_link(host_end); });
  // A port needs no address; without this the node would be reachable from inside the box by a
  // link-local one.
  set_ipv6(host_end, "disable_ipv6", "1");
  undo.commit();
}

void attach_to_bridge(const std::string& host_end, const std::string& bridge) {
  const Netlink netlink;
  const Link master = netlink.need_bridge(bridge);
  const Link link = netlink.need(host_end);
  const Link changes(there(rtnl_link_alloc()));
  rtnl_link_set_master(changes.get(), rtnl_link_get_ifindex(master.get()));
  netlink.change(link.get(), changes.get(), std::format("cannot make {} a port of {}", host_end, bridge));

  // A bridge takes the lowest MAC of its ports for its own, until one has been set. Without an uplink
  // that is ours now; when our cable goes, the MAC would change under all boxes that use it as gateway.
  const Link after = netlink.need_bridge(bridge);
  if (nl_addr_cmp(rtnl_link_get_addr(master.get()), rtnl_link_get_addr(after.get())) == 0) return;
  const Link keep(there(rtnl_link_alloc()));
  rtnl_link_set_addr(keep.get(), rtnl_link_get_addr(master.get()));
  netlink.change(after.get(), keep.get(), std::format("cannot keep the MAC of {}", bridge));
}

void set_up(const std::string& link) {
  const Netlink netlink;
  raise(netlink, netlink.need(link).get(), link);
}

void delete_link(const std::string& link) {
  const Netlink netlink;
  const Link found = netlink.find(link);
  if (!found) return;
  const int failure = rtnl_link_delete(netlink.get(), found.get());
  if (failure < 0 && failure != -NLE_NODEV && failure != -NLE_OBJ_NOTFOUND)
    throw nl_error(std::format("cannot delete {}", link), failure);
}

bool link_exists(const std::string& link) { return Netlink().find(link) != nullptr; }

void move_into(const std::string& other_end, int netns_fd, const Eth0& eth0) {
  for (const Address& address : eth0.addresses)
    if (!address.prefix) throw base::error("the address {} has no prefix length", address.host());
  const Netlink netlink;
  const Link link = netlink.need(other_end);
  const Link changes(there(rtnl_link_alloc()));
  rtnl_link_set_ns_fd(changes.get(), netns_fd);
  rtnl_link_set_name(changes.get(), "eth0");
  const NlAddress mac = nl_address(eth0.mac);
  rtnl_link_set_addr(changes.get(), mac.get());
  netlink.change(link.get(), changes.get(), std::format("cannot move {} into the box as eth0", other_end));
  in_netns(netns_fd, [&] { furnish(eth0); });
}

bool is_set_up(const std::string& link) { return is_set_up(Netlink().find(link)); }

bool wait_for_carrier(const std::string& host_end, int netns_fd, std::chrono::milliseconds timeout) {
  const Netlink outside;
  std::optional<Netlink> inside;  // a socket stays in the namespace that it was made in
  in_netns(netns_fd, [&] { inside.emplace(); });
  const auto deadline = std::chrono::steady_clock::now() + timeout;
  // The operational state is set in the same breath in which the device's queue starts to pass
  // frames and the bridge makes the port forward.
  const auto passes = [](const Link& link) { return rtnl_link_get_operstate(link.get()) == IF_OPER_UP; };
  for (;;) {
    const Link eth0 = inside->find("eth0"), other = outside.find(host_end);
    if (!other || !is_set_up(eth0) || (passes(eth0) && passes(other))) return true;
    if (std::chrono::steady_clock::now() >= deadline) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

std::vector<Address> unanswered_lookups(const std::string& link) {
  const Netlink netlink;
  const int index = rtnl_link_get_ifindex(netlink.need(link).get());
  nl_cache* filled = nullptr;
  const int failure = rtnl_neigh_alloc_cache(netlink.get(), &filled);
  if (failure < 0) throw nl_error(std::format("cannot read the neighbours on {}", link), failure);
  const Cache cache(filled);
  std::vector<Address> found;
  for (nl_object* at = nl_cache_get_first(filled); at != nullptr; at = nl_cache_get_next(at)) {
    auto* neighbour = reinterpret_cast<rtnl_neigh*>(at);
    if (rtnl_neigh_get_ifindex(neighbour) != index || (rtnl_neigh_get_state(neighbour) & NUD_INCOMPLETE) == 0)
      continue;
    if (const auto address = from_nl(rtnl_neigh_get_dst(neighbour))) found.push_back(*address);
  }
  return found;
}

std::vector<Address> box_addresses(int netns_fd) {
  std::vector<Address> found;
  in_netns(netns_fd, [&] {
    const Netlink netlink;
    if (const Link link = netlink.find("eth0")) found = addresses_of(netlink, link.get());
  });
  return found;
}

}  // namespace box
