#include <arpa/inet.h>
#include <linux/fib_rules.h>
#include <linux/if_addr.h>
#include <linux/neighbour.h>
#include <linux/rtnetlink.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <format>
#include <set>

#include "base/error.h"
#include "box/firewall.h"
#include "box/net_state.h"
#include "box/netlink.h"
#include "box/netns.h"

namespace box {
namespace {

void need(int failure, std::string_view what) {
  if (failure != 0) throw base::Error(std::format("cannot {} in the box's network", what), failure);
}

void set_link(RouteSocket& socket, const NetLink& link) {
  ifinfomsg head = {};
  head.ifi_index = static_cast<int>(link.index);
  std::string content(bytes_of(head));
  put_attribute(content, IFLA_MTU, bytes_of(link.mtu));
  put_attribute(content, IFLA_TXQLEN, bytes_of(link.queue));
  need(socket.ask(RTM_NEWLINK, 0, content), "set up a device");
}

void set_flags(RouteSocket& socket, const NetLink& link) {
  ifinfomsg head = {};
  head.ifi_index = static_cast<int>(link.index);
  head.ifi_flags = link.flags;
  head.ifi_change = kNetLinkFlags;
  need(socket.ask(RTM_NEWLINK, 0, bytes_of(head)), "set a device's flags");
}

/// What tells one address from another one.
std::string address_key(const std::string& content) {
  const auto head = head_of<ifaddrmsg>(content);
  std::string_view local;
  const auto attributes = parse_attributes(std::string_view(content).substr(sizeof head));
  for (const auto& [type, value] : attributes.value())
    if (type == IFA_LOCAL || (type == IFA_ADDRESS && local.empty())) local = value;
  return std::format("{} {} {} ", head.ifa_family, head.ifa_index, head.ifa_prefixlen) + std::string(local);
}

/// The address with `also` among its flags, and without those that are of the moment.
std::string with_flags(const std::string& content, uint32_t also) {
  auto head = head_of<ifaddrmsg>(content);
  uint32_t flags = head.ifa_flags;
  std::string rest;
  const auto attributes = parse_attributes(std::string_view(content).substr(sizeof head));
  for (const auto& [type, value] : attributes.value()) {
    if (type == IFA_FLAGS && value.size() == sizeof flags)
      flags = head_of<uint32_t>(value);
    else
      put_attribute(rest, type, value);
  }
  flags &= ~uint32_t{IFA_F_TENTATIVE | IFA_F_DADFAILED | IFA_F_OPTIMISTIC | IFA_F_DEPRECATED};
  flags |= also;
  head.ifa_flags = static_cast<uint8_t>(flags);
  std::string out(bytes_of(head));
  put_attribute(out, IFA_FLAGS, bytes_of(flags));
  return out + rest;
}

void set_addresses(RouteSocket& socket, NetContents wanted) {
  // Of IPv6 addresses the kernel tells the last one first.
  const auto v6 = std::ranges::stable_partition(
      wanted, [](const auto& content) { return head_of<ifaddrmsg>(content).ifa_family == AF_INET; });
  std::ranges::reverse(v6);
  // The kernel looks whether somebody else has an IPv6 address, which takes a second, unless it is told not
  // to when the address comes; that word can be taken back afterwards.
  std::set<std::string> keys;
  for (const auto& content : wanted) {
    keys.insert(address_key(content));
    const std::string plain = with_flags(content, 0), quick = with_flags(content, IFA_F_NODAD);
    const bool is_v6 = head_of<ifaddrmsg>(content).ifa_family == AF_INET6;
    need(socket.ask(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, is_v6 ? quick : plain), "set an address");
    if (is_v6 && quick != plain) need(socket.ask(RTM_NEWADDR, NLM_F_REPLACE, plain), "set an address");
  }
  const ifaddrmsg all = {};
  for (const auto& content : socket.list(RTM_GETADDR, bytes_of(all))) {
    if (content.size() < sizeof(ifaddrmsg) || keys.contains(address_key(content))) continue;
    if (const int failure = socket.ask(RTM_DELADDR, 0, content); failure != EADDRNOTAVAIL)
      need(failure, "take an address away");
  }
}

NetContents all_of(RouteSocket& socket, const NetKind& kind) {
  NetContents found;
  for (const uint8_t family : {uint8_t{AF_INET}, uint8_t{AF_INET6}}) {
    rtmsg head = {};
    head.rtm_family = family;
    for (const auto& content : socket.list(kind.list, bytes_of(head)))
      if (auto kept = lasting(kind, content)) found.push_back(std::move(*kept));
  }
  return found;
}

uint16_t flags_for(const NetKind& kind, const std::string& content) {
  if (&kind == &kNetNeighbour) return NLM_F_CREATE | NLM_F_REPLACE;
  // Appended, an IPv6 route would become one of several ways of another one.
  const bool append = &kind == &kNetRoute && static_cast<uint8_t>(content[0]) == AF_INET;
  return NLM_F_CREATE | (append ? NLM_F_APPEND : NLM_F_EXCL);
}

/// "a route to 10.77.0.0/24".
std::string name_of(const NetKind& kind, const std::string& content) {
  std::string name = kind.name;
  const auto family = static_cast<uint8_t>(content[0]), prefix = static_cast<uint8_t>(content[1]);
  if (&kind != &kNetRoute) return name;
  std::array<char, INET6_ADDRSTRLEN> text{};
  const auto attributes = parse_attributes(std::string_view(content).substr(kind.head));
  for (const auto& [type, value] : attributes.value())
    if (type == RTA_DST && value.size() == (family == AF_INET ? 4 : 16))
      name += std::format(" to {}/{}", ::inet_ntop(family, value.data(), text.data(), text.size()), prefix);
  return name;
}

/// Makes what lacks. Some need others to be there: a gateway needs the route to it.
void make_all(RouteSocket& socket, const NetKind& kind, NetContents lacking) {
  while (!lacking.empty()) {
    NetContents again;
    std::string failed;
    int failure = 0;
    for (auto& content : lacking) {
      const int result = socket.ask(kind.make, flags_for(kind, content), content);
      if (result == 0 || result == EEXIST) continue;
      failure = result;
      failed = name_of(kind, content);
      again.push_back(std::move(content));
    }
    if (again.size() == lacking.size()) need(failure, "make " + failed);
    lacking = std::move(again);
  }
}

/// Makes what there is of a kind what there was.
void make_equal(RouteSocket& socket, const NetKind& kind, const NetContents& contents) {
  const NetContents found = all_of(socket, kind);
  const std::set<std::string_view> there(found.begin(), found.end()),
      wanted(contents.begin(), contents.end());
  NetContents lacking;
  for (const auto& content : contents)
    if (!there.contains(content)) lacking.push_back(content);
  for (const auto& content : found)
    if (!wanted.contains(content))
      need(socket.ask(kind.remove, 0, content), std::format("take {} away", kind.name));
  make_all(socket, kind, std::move(lacking));
}

}  // namespace

void NetState::put_into(int netns_fd, uint32_t id_base) const {
  in_netns(netns_fd, [&] {
    RouteSocket socket;
    set_link(socket, lo);
    set_link(socket, eth0);
    write_net_settings(settings, id_base);
    set_flags(socket, lo);
    set_flags(socket, eth0);
    set_addresses(socket, addresses);
    // Before the rules: these may lead no packet to where a route's gateway is found.
    make_equal(socket, kNetRoute, routes);
    make_equal(socket, kNetRule, rules);
    make_all(socket, kNetNeighbour, neighbours);
    if (!firewall.empty()) load_ruleset(firewall);
  });
}

}  // namespace box
