#include <linux/if_addr.h>
#include <linux/if_link.h>
#include <linux/neighbour.h>
#include <linux/rtnetlink.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <format>
#include <set>

#include "base/error.h"
#include "base/log.h"
#include "box/criu_programs.h"
#include "box/firewall.h"
#include "box/net_state.h"
#include "box/netlink.h"
#include "box/netns.h"

namespace box {
namespace {

/// A device's attributes that are looked at.
struct Device {
  std::string name, kind;
  NetLink link;
};

std::string text_of(std::string_view value) { return std::string(value.substr(0, value.find('\0'))); }

Device parse_device(std::string_view content) {
  Device device;
  if (content.size() < sizeof(ifinfomsg)) throw base::error("the kernel tells of a device in an unknown way");
  const auto head = head_of<ifinfomsg>(content);
  device.link.index = static_cast<uint32_t>(head.ifi_index);
  device.link.flags = head.ifi_flags & kNetLinkFlags;
  const auto attributes = parse_attributes(content.substr(sizeof head));
  if (!attributes) throw base::error("the kernel tells of a device in an unknown way");
  for (const auto& [type, value] : *attributes) {
    if (type == IFLA_IFNAME) device.name = text_of(value);
    if (type == IFLA_MTU && value.size() == 4) device.link.mtu = head_of<uint32_t>(value);
    if (type == IFLA_TXQLEN && value.size() == 4) device.link.queue = head_of<uint32_t>(value);
    if (type == IFLA_ADDRESS && value.size() == device.link.mac.bytes.size())
      std::copy(value.begin(), value.end(), device.link.mac.bytes.begin());
    if (type == IFLA_IFALIAS || (type == IFLA_GROUP && value.size() == 4 && head_of<uint32_t>(value) != 0))
      throw base::error("{} has a name or a group of the box's own", device.name);
    if (type == IFLA_LINKINFO)
      for (const auto& info : parse_attributes(value).value_or(std::vector<Attribute>{}))
        if (info.type == IFLA_INFO_KIND) device.kind = text_of(info.value);
  }
  return device;
}

void record_links(RouteSocket& socket, NetState& state) {
  const ifinfomsg all = {};
  for (const auto& content : socket.list(RTM_GETLINK, bytes_of(all))) {
    const Device device = parse_device(content);
    if (device.name == "lo") {
      state.lo = device.link;
      state.lo.mac = {};
    } else if (device.name == "eth0" && device.kind == "veth") {
      state.eth0 = device.link;
    } else {
      throw base::error("the box has a device of its own, {}", device.name);
    }
  }
  const tcmsg queues = {};
  for (const auto& content : socket.list(RTM_GETQDISC, bytes_of(queues)))
    if (content.size() >= sizeof(tcmsg) && head_of<tcmsg>(content).tcm_handle != 0)
      throw base::error("the box shapes its traffic itself");
}

void record_all(RouteSocket& socket, const NetKind& kind, std::string_view request, NetContents& found) {
  for (const auto& content : socket.list(kind.list, request))
    if (auto kept = lasting(kind, content)) found.push_back(std::move(*kept));
}

/// Both families, one after the other: asked for any, the kernel also tells of those of multicast routers.
template <class Head>
void record_families(RouteSocket& socket, const NetKind& kind, Head head, uint8_t Head::* family,
                     NetContents& found) {
  for (const uint8_t each : {uint8_t{AF_INET}, uint8_t{AF_INET6}}) {
    head.*family = each;
    record_all(socket, kind, bytes_of(head), found);
  }
}

NetState record_here() {
  NetState state;
  RouteSocket socket;
  record_links(socket, state);
  record_families(socket, kNetAddress, ifaddrmsg{}, &ifaddrmsg::ifa_family, state.addresses);
  record_families(socket, kNetRoute, rtmsg{}, &rtmsg::rtm_family, state.routes);
  record_families(socket, kNetRule, rtmsg{}, &rtmsg::rtm_family, state.rules);
  record_families(socket, kNetNeighbour, ndmsg{}, &ndmsg::ndm_family, state.neighbours);
  ndmsg proxies = {};
  proxies.ndm_flags = NTF_PROXY;
  record_families(socket, kNetNeighbour, proxies, &ndmsg::ndm_family, state.neighbours);
  state.firewall = list_ruleset();
  return state;
}

}  // namespace

std::optional<NetState> NetState::record(const std::vector<pid_t>& pids, int netns_fd) {
  try {
    if (has_old_iptables(pids)) throw base::error("the box has tables of the old iptables");
    std::set<std::pair<dev_t, ino_t>> namespaces;
    for (const pid_t pid : pids)
      if (struct stat s{}; ::stat(std::format("/proc/{}/ns/net", pid).c_str(), &s) == 0)
        namespaces.emplace(s.st_dev, s.st_ino);
    if (namespaces.size() > 1) throw base::error("the box has {} network namespaces", namespaces.size());
    NetState state;
    in_netns(netns_fd, [&] { state = record_here(); });
    state.check();
    return state;
  } catch (const base::Error& e) {
    base::debug("CRIU carries the box's network: {}", e.message());
    return std::nullopt;
  }
}

}  // namespace box
