#include "box/net_state.h"

#include <linux/fib_rules.h>
#include <linux/if.h>
#include <linux/if_addr.h>
#include <linux/neighbour.h>
#include <linux/rtnetlink.h>
#include <nlohmann/json.hpp>
#include <sys/socket.h>

#include <algorithm>
#include <initializer_list>

#include "base/error.h"
#include "box/netlink.h"

namespace box {
namespace {

using Json = nlohmann::json;

constexpr size_t kMostBytes = 64 << 20, kMostContent = 4096;
constexpr uint32_t kLo = 1;  // in every network namespace (Linux, drivers/net/loopback.c)
constexpr uint32_t kLeastMtu = 68, kMostMtu = 65536;

constexpr uint64_t bits(std::initializer_list<int> types) {
  uint64_t set = 0;
  for (const int type : types) set |= uint64_t{1} << type;
  return set;
}
constexpr bool has(uint64_t set, uint16_t type) { return type < 64 && (set >> type & 1) != 0; }

template <class T>
void set_head(std::string& content, const T& head) {
  content.replace(0, sizeof head, bytes_of(head));
}

base::Error unknown(const NetKind& kind, std::string_view why) {
  return base::error("the box's network has {} {}", kind.name, why);
}

/// What the kernel makes of an address or a device without being asked.
bool is_kernels_own(const rtmsg& route) {
  return (route.rtm_flags & RTM_F_CLONED) != 0 ||
         (route.rtm_protocol == RTPROT_KERNEL &&
          (route.rtm_type != RTN_UNICAST || route.rtm_table == RT_TABLE_LOCAL));
}

std::string lasting_hops(std::string_view hops) {
  std::string out(hops);
  for (size_t at = 0; at + sizeof(rtnexthop) <= out.size();) {
    auto hop = head_of<rtnexthop>(std::string_view(out).substr(at));
    hop.rtnh_flags &= RTNH_F_ONLINK;
    out.replace(at, sizeof hop, bytes_of(hop));
    if (hop.rtnh_len < sizeof hop) break;
    at += RTNH_ALIGN(hop.rtnh_len);
  }
  return out;
}

/// The struct at the beginning, without what tells of the moment. False: the content is not to be carried.
bool settle_head(const NetKind& kind, std::string& content) {
  if (&kind == &kNetRoute) {
    auto head = head_of<rtmsg>(content);
    if (is_kernels_own(head)) return false;
    head.rtm_flags &= RTNH_F_ONLINK;
    set_head(content, head);
  } else if (&kind == &kNetRule) {
    auto head = head_of<fib_rule_hdr>(content);
    head.flags &= FIB_RULE_INVERT;
    set_head(content, head);
  } else if (&kind == &kNetNeighbour) {
    const auto head = head_of<ndmsg>(content);
    return head.ndm_state == NUD_PERMANENT || (head.ndm_flags & NTF_PROXY) != 0;
  }
  return true;
}

class Checker {
 public:
  explicit Checker(uint32_t eth0) : eth0_(eth0) {}

  void check(const NetKind& kind, const NetContents& contents) const {
    for (const auto& content : contents) check(kind, content);
  }

 private:
  void check(const NetKind& kind, const std::string& content) const {
    if (content.size() < kind.head || content.size() > kMostContent)
      throw unknown(kind, std::format("of {} bytes", content.size()));
    // Each of these structs begins with the family, but for two bits of padding none is wider there.
    const auto family = static_cast<uint8_t>(content[0]);
    if (family != AF_INET && family != AF_INET6) throw unknown(kind, std::format("of the family {}", family));
    if (&kind == &kNetAddress) device(kind, head_of<ifaddrmsg>(content).ifa_index);
    if (&kind == &kNetNeighbour)
      if (const auto head = head_of<ndmsg>(content);
          head.ndm_ifindex != 0 || (head.ndm_flags & NTF_PROXY) == 0)
        device(kind, static_cast<uint32_t>(head.ndm_ifindex));
    for (const auto& [type, value] : attributes(kind, content.substr(kind.head))) {
      if (!has(kind.known, type)) throw unknown(kind, std::format("with an attribute {}", type));
      if (&kind == &kNetRoute && type == RTA_OIF) device(kind, number(kind, value));
      if (&kind == &kNetRoute && type == RTA_MULTIPATH) hops(value);
    }
  }

  void hops(std::string_view rest) const {
    while (!rest.empty()) {
      if (rest.size() < sizeof(rtnexthop)) throw unknown(kNetRoute, "that is cut off");
      const auto hop = head_of<rtnexthop>(rest);
      if (hop.rtnh_len < sizeof hop || hop.rtnh_len > rest.size())
        throw unknown(kNetRoute, "that is cut off");
      device(kNetRoute, static_cast<uint32_t>(hop.rtnh_ifindex));
      for (const auto& attribute : attributes(kNetRoute, rest.substr(sizeof hop, hop.rtnh_len - sizeof hop)))
        if (!has(bits({RTA_GATEWAY, RTA_VIA, RTA_FLOW}), attribute.type))
          throw unknown(kNetRoute, std::format("with an attribute {} of one of its ways", attribute.type));
      rest.remove_prefix(std::min<size_t>(RTNH_ALIGN(hop.rtnh_len), rest.size()));
    }
  }

  static std::vector<Attribute> attributes(const NetKind& kind, std::string_view text) {
    auto found = parse_attributes(text);
    if (!found) throw unknown(kind, "that is cut off");
    return *found;
  }
  static uint32_t number(const NetKind& kind, std::string_view value) {
    if (value.size() != sizeof(uint32_t)) throw unknown(kind, "that is cut off");
    return head_of<uint32_t>(value);
  }
  void device(const NetKind& kind, uint32_t index) const {
    if (index != kLo && index != eth0_) throw unknown(kind, std::format("of a device {}", index));
  }

  uint32_t eth0_;
};

void check_link(const NetLink& link, const char* name) {
  if ((link.flags & ~kNetLinkFlags) != 0 || link.mtu < kLeastMtu || link.mtu > kMostMtu ||
      link.queue > INT32_MAX)
    throw base::error("the box's {} is none: flags {:#x}, MTU {}, queue {}", name, link.flags, link.mtu,
                      link.queue);
}

void check_firewall(const std::string& rules) {
  if (!std::ranges::all_of(rules, [](char c) { return c == '\t' || c == '\n' || (c >= ' ' && c < 0x7f); }))
    throw base::error("the box's own firewall is no plain text");
  // libnftables would read the file, whosever it is. The others it writes and cannot read.
  for (const char* refused : {"include", "xt match", "xt target"})
    if (rules.contains(refused)) throw base::error("the box's own firewall says \"{}\"", refused);
}

std::string hex(std::string_view bytes) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string text;
  for (const char c : bytes) {
    text += kDigits[static_cast<uint8_t>(c) >> 4];
    text += kDigits[static_cast<uint8_t>(c) & 15];
  }
  return text;
}

std::string unhex(const std::string& text) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string bytes;
  for (size_t i = 0; i < text.size(); i += 2) {
    const size_t high = kDigits.find(text[i]),
                 low = i + 1 < text.size() ? kDigits.find(text[i + 1]) : std::string::npos;
    if (high == std::string::npos || low == std::string::npos)
      throw base::error("the box's network has what is no bytes in hexadecimal digits");
    bytes += static_cast<char>(high << 4 | low);
  }
  return bytes;
}

Json list_json(const NetContents& contents) {
  Json list = Json::array();
  for (const auto& content : contents) list.push_back(hex(content));
  return list;
}

NetContents parse_list(const Json& list) {
  NetContents contents;
  for (const auto& text : list) contents.push_back(unhex(text.get<std::string>()));
  return contents;
}

Json link_json(const NetLink& link) {
  return {{"index", link.index}, {"flags", link.flags}, {"mtu", link.mtu}, {"queue", link.queue}};
}

NetLink parse_link(const Json& json) {
  return {.index = json.at("index").get<uint32_t>(),
          .flags = json.at("flags").get<uint32_t>(),
          .mtu = json.at("mtu").get<uint32_t>(),
          .queue = json.at("queue").get<uint32_t>(),
          .mac = {}};
}

}  // namespace

const uint32_t kNetLinkFlags = IFF_UP | IFF_DEBUG | IFF_NOARP | IFF_PROMISC | IFF_ALLMULTI | IFF_MULTICAST;

const NetKind kNetAddress = {"an address",
                             RTM_NEWADDR,
                             RTM_DELADDR,
                             RTM_GETADDR,
                             sizeof(ifaddrmsg),
                             bits({IFA_ADDRESS, IFA_LOCAL, IFA_LABEL, IFA_BROADCAST, IFA_CACHEINFO, IFA_FLAGS,
                                   IFA_RT_PRIORITY, IFA_PROTO}),
                             0};
const NetKind kNetRoute = {
    "a route",
    RTM_NEWROUTE,
    RTM_DELROUTE,
    RTM_GETROUTE,
    sizeof(rtmsg),
    bits({RTA_DST, RTA_SRC, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY, RTA_PREFSRC, RTA_METRICS, RTA_MULTIPATH,
          RTA_FLOW, RTA_TABLE, RTA_MARK, RTA_VIA, RTA_PREF, RTA_TTL_PROPAGATE}),
    bits({RTA_CACHEINFO})};
const NetKind kNetRule = {
    "a rule",
    RTM_NEWRULE,
    RTM_DELRULE,
    RTM_GETRULE,
    sizeof(fib_rule_hdr),
    bits({FRA_DST, FRA_SRC, FRA_IIFNAME, FRA_GOTO, FRA_PRIORITY, FRA_FWMARK, FRA_FLOW, FRA_TUN_ID,
          FRA_SUPPRESS_IFGROUP, FRA_SUPPRESS_PREFIXLEN, FRA_TABLE, FRA_FWMASK, FRA_OIFNAME, FRA_PROTOCOL,
          FRA_IP_PROTO, FRA_SPORT_RANGE, FRA_DPORT_RANGE}),
    0};
const NetKind kNetNeighbour = {"a neighbour",
                               RTM_NEWNEIGH,
                               RTM_DELNEIGH,
                               RTM_GETNEIGH,
                               sizeof(ndmsg),
                               bits({NDA_DST, NDA_LLADDR, NDA_PROTOCOL, NDA_FLAGS_EXT}),
                               bits({NDA_CACHEINFO, NDA_PROBES})};

std::optional<std::string> lasting(const NetKind& kind, std::string_view content) {
  if (content.size() < kind.head) throw unknown(kind, "that is cut off");
  std::string out(content.substr(0, kind.head));
  if (!settle_head(kind, out)) return std::nullopt;
  const auto attributes = parse_attributes(content.substr(kind.head));
  if (!attributes) throw unknown(kind, "that is cut off");
  for (const auto& [type, value] : *attributes) {
    if (&kind == &kNetRoute && type == RTA_CACHEINFO && value.size() >= sizeof(rta_cacheinfo) &&
        head_of<rta_cacheinfo>(value).rta_expires != 0)
      throw unknown(kind, "that expires");
    if (has(kind.left_out, type)) continue;
    put_attribute(out, type,
                  &kind == &kNetRoute && type == RTA_MULTIPATH ? lasting_hops(value) : std::string(value));
  }
  return out;
}

void NetState::check() const {
  if (lo.index != kLo || eth0.index <= kLo || eth0.index > INT32_MAX)
    throw base::error("the box's eth0 has the number {}", eth0.index);
  check_link(lo, "lo");
  check_link(eth0, "eth0");
  const Checker checker(eth0.index);
  checker.check(kNetAddress, addresses);
  checker.check(kNetRoute, routes);
  checker.check(kNetRule, rules);
  checker.check(kNetNeighbour, neighbours);
  for (const auto& [path, value] : settings) check_net_setting(path, value);
  size_t bytes = firewall.size();
  for (const auto* contents : {&addresses, &routes, &rules, &neighbours})
    for (const auto& content : *contents) bytes += content.size();
  if (bytes > kMostBytes / 4) throw base::error("the box's network takes {} bytes", bytes);
  check_firewall(firewall);
}

std::string NetState::render() const {
  check();
  Json json = {
      {"lo", link_json(lo)},         {"eth0", link_json(eth0)},   {"addresses", list_json(addresses)},
      {"routes", list_json(routes)}, {"rules", list_json(rules)}, {"neighbours", list_json(neighbours)},
      {"settings", settings},        {"firewall", firewall}};
  json["eth0"]["mac"] = eth0.mac.to_string();
  return json.dump(1) + "\n";
}

NetState NetState::parse(std::string_view text) {
  if (text.size() > kMostBytes) throw base::error("the box's network takes {} bytes", text.size());
  NetState state;
  try {
    const Json json = Json::parse(text);
    state.lo = parse_link(json.at("lo"));
    state.eth0 = parse_link(json.at("eth0"));
    state.eth0.mac = Mac::parse(json.at("eth0").at("mac").get<std::string>());
    state.addresses = parse_list(json.at("addresses"));
    state.routes = parse_list(json.at("routes"));
    state.rules = parse_list(json.at("rules"));
    state.neighbours = parse_list(json.at("neighbours"));
    state.settings = json.at("settings").get<NetSettings>();
    state.firewall = json.at("firewall").get<std::string>();
  } catch (const Json::exception& e) {
    throw base::error("the box's network is not written as it should be: {}", e.what());
  }
  state.check();
  return state;
}

}  // namespace box
