#include "box/net_state.h"

#include <net/if.h>
#include <nlohmann/json.hpp>

#include <chrono>
#include <functional>
#include <regex>

#include "base/error.h"
#include "box/netns.h"
#include "box/network.h"
#include "tests/unit/box/rack.h"

namespace {

using namespace rack;
using box::NetState;
using nlohmann::json;

std::string refusal(const std::string& text) {
  try {
    (void)NetState::parse(text);
  } catch (const base::Error& e) {
    return e.message();
  }
  return "accepted";
}

// As a kernel tells them (linux/rtnetlink.h, x86-64): 10.77.0.10/24 on device 2, and a default route
// by 10.77.0.1 on it; a rule for table 100; a neighbour.
constexpr const char* kAddress =
    "021880000200000008000100"
    "0a4d000a"
    "08000200"
    "0a4d000a"
    "0900030065746830"
    "00000000";
constexpr const char* kRoute =
    "0200000000000000"
    "00000000"
    "08000f00"
    "fe000000"
    "08000500"
    "0a4d0001"
    "08000400"
    "02000000";
constexpr const char* kRule =
    "0200000000000001"
    "00000000"
    "08000f00"
    "64000000"
    "08000600"
    "e8030000";
constexpr const char* kNeighbour =
    "0200000002000000"
    "80000000"
    "08000100"
    "0a4d0001"
    "0a000200"
    "020000000001"
    "0000";

json sample() {
  return {
      {"lo", {{"index", 1}, {"flags", 1}, {"mtu", 65536}, {"queue", 1000}}},
      {"eth0", {{"index", 2}, {"flags", 4097}, {"mtu", 1500}, {"queue", 1000}, {"mac", "02:00:00:00:00:0a"}}},
      {"addresses", {kAddress}},
      {"routes", {kRoute}},
      {"rules", {kRule}},
      {"neighbours", {kNeighbour}},
      {"settings", {{"ipv4/ip_forward", "1"}, {"ipv4/tcp_rmem", "4096\t131072\t6291456"}}},
      {"firewall", "table inet own {\n}\n"}};
}

TEST(NetState, IsTheSameAfterTheWay) {
  const NetState state = NetState::parse(sample().dump());
  EXPECT_EQ(state.lo.mtu, 65536U);
  EXPECT_EQ(state.eth0.index, 2U);
  EXPECT_EQ(state.eth0.mac.to_string(), "02:00:00:00:00:0a");
  ASSERT_EQ(state.addresses.size(), 1U);
  EXPECT_EQ(state.addresses[0].substr(0, 4), std::string("\x02\x18\x80\x00", 4));
  EXPECT_EQ(state.settings.at("ipv4/ip_forward"), "1");
  EXPECT_EQ(state.firewall, "table inet own {\n}\n");
  EXPECT_EQ(NetState::parse(state.render()), state);
}

std::string with(std::string text, size_t at, const char* digits) {
  return text.replace(at, std::strlen(digits), digits);
}

TEST(NetState, NothingInItIsTrusted) {
  const std::tuple<const char*, json, const char*> cases[] = {
      {"/addresses", 7, "is not written as it should be"},
      {"/eth0/mtu", "x", "is not written as it should be"},
      {"/eth0/mtu", 67, "eth0 is none"},
      {"/eth0/flags", 0x10000, "eth0 is none"},
      {"/lo/index", 2, "has the number"},
      {"/eth0/index", 1, "has the number 1"},
      {"/eth0/mac", "ff:ff:ff:ff:ff:ff", "ff:ff:ff:ff:ff:ff"},
      {"/addresses/0", "0", "no bytes in hexadecimal digits"},
      {"/addresses/0", "0G", "no bytes in hexadecimal digits"},
      {"/addresses/0", "", "an address of 0 bytes"},
      {"/addresses/0", std::string(8194, '0'), "an address of 4097 bytes"},
      {"/addresses/0", with(kAddress, 0, "11"), "an address of the family 17"},
      {"/addresses/0", with(kAddress, 8, "03"), "an address of a device 3"},
      {"/addresses/0", with(kAddress, 16, "ff"), "an address that is cut off"},
      {"/addresses/0", with(kAddress, 16, "0000"), "an address that is cut off"},
      {"/addresses/0", with(kAddress, 20, "0a"), "an address with an attribute 10"},  // IFA_TARGET_NETNSID
      {"/routes/0", with(kRoute, 64, "03"), "a route of a device 3"},
      {"/routes/0", with(kRoute, 28, "1e"), "a route with an attribute 30"},  // RTA_NH_ID
      {"/routes/0",
       std::string(kRoute) + "0c000900"
                             "08000000"
                             "03000000",
       "a route of a device 3"},
      {"/routes/0",
       std::string(kRoute) + "0c000900"
                             "10000000"
                             "02000000",
       "a route that is cut off"},
      {"/routes/0",
       std::string(kRoute) + "08000900"
                             "07000000",
       "a route that is cut off"},
      {"/routes/0",
       std::string(kRoute) + "10000900"
                             "0c000000"
                             "02000000"
                             "04001600",
       "an attribute 22 of one of its ways"},
      {"/rules/0",
       std::string(kRule) + "0c001400"
                            "00000000"
                            "01000000",
       "a rule with an attribute 20"},
      {"/neighbours/0", with(kNeighbour, 8, "07"), "a neighbour of a device 7"},
      {"/settings/..~1..~1kernel~1core_pattern", "|x", "a setting that is none"},
      {"/settings/~1etc", "1", "a setting that is none"},
      {"/settings/ipv4~1a b", "1", "a setting that is none"},
      {"/settings/ipv4~1ip_forward", std::string("1\0", 2), "a value for ipv4/ip_forward that is none"},
      {"/settings/ipv4~1ip_forward", std::string(5000, '1'), "a value for ipv4/ip_forward that is none"},
      {"/settings/ipv4~1ip_forward", 1, "is not written as it should be"},
      {"/firewall", "include \"/etc/shadow\"", "says \"include\""},
      {"/firewall", "table ip filter { chain a { xt match \"conntrack\" } }", "says \"xt match\""},
      {"/firewall", std::string("table\0", 6), "is no plain text"},
  };
  for (const auto& [where, value, what] : cases) {
    json changed = sample();
    changed[json::json_pointer(where)] = value;
    EXPECT_NE(refusal(changed.dump()).find(what), std::string::npos)
        << where << ": " << refusal(changed.dump());
  }
  for (const char* lacking :
       {"lo", "eth0", "addresses", "routes", "rules", "neighbours", "settings", "firewall"}) {
    json changed = sample();
    changed.erase(lacking);
    EXPECT_NE(refusal(changed.dump()).find("is not written as it should be"), std::string::npos) << lacking;
  }
  EXPECT_NE(refusal("").find("is not written as it should be"), std::string::npos);
  EXPECT_NE(refusal(std::string(65 << 20, ' ')).find("takes"), std::string::npos);
}

class NetStateTest : public Rack {
 protected:
  void run_all(const Host& host, const std::vector<std::string>& lines) {
    for (const auto& line : lines) ASSERT_EQ(run_in(host, {"sh", "-c", line}), 0) << line;
  }
  static std::string refused(const Host& host) {
    return NetState::record({}, host.netns.get()) ? "recorded" : "CRIU's";
  }

  /// A second namespace with what the first has.
  Host copy(const Host& from, const NetState& state) {
    Host to{box::host_end_name("copy"), new_netns(), from.mac, {}};
    box::create_veth(to.host_end, "eth0", 1500,
                     box::Inside{to.netns.get(), state.eth0.index, state.eth0.mac});
    state.put_into(to.netns.get(), 0);
    box::set_up(to.host_end);
    return to;
  }

  std::vector<std::string> look(const Host& host) {
    std::vector<std::string> seen;
    box::in_netns(host.netns.get(), [&] {
      for (const std::string line :
           {"ip -d -o link show dev lo", "ip -d -o link show dev eth0", "ip -d -o address",
            "ip -4 route show table all", "ip -6 route show table all", "ip rule", "ip -6 rule",
            "ip neigh show nud permanent", "ip -6 neigh show proxy", "nft list ruleset",
            "cd /proc/sys/net; find . -type f ! -name flush ! -name '*random*' ! -name nf_conntrack_count | "
            "sort | xargs grep -s ."}) {
        std::string text = runner_.run({.argv = {"sh", "-c", line + "; true"}}).out;
        seen.push_back(
            line + "\n" +
            std::regex_replace(
                text, std::regex(R"(@if\d+|link-netnsid \d+|(valid|preferred)_lft \d+sec|expires \S+)"), ""));
      }
    });
    return seen;
  }
};

TEST_F(NetStateTest, AnotherNamespaceGetsAllThatOneHas) {
  const Host a = plug("a", "02:00:00:00:00:0a", {"10.77.0.10/24", "192.0.2.7/32", "fd77::10/64"},
                      {"10.77.0.1", "fd77::1"});
  run_all(
      a, {"ip link set eth0 mtu 1400 txqueuelen 77 allmulticast on",
          "ip address add 10.77.0.11/24 dev eth0 label eth0:second",
          "ip address add 198.51.100.1/24 dev eth0 noprefixroute scope link",
          "ip address add 203.0.113.1 peer 203.0.113.2 dev eth0",
          "ip address add 127.0.0.2/8 dev lo",
          "ip address add 2001:db8::1/64 dev eth0 valid_lft 1000 preferred_lft 500",
          "ip address add 2001:db8::2/64 dev eth0 nodad preferred_lft 0",
          "ip route add 192.168.1.0/24 via 10.77.0.2 metric 7 table 100",
          "ip route add default via 10.77.0.3 table 100",
          "ip route add blackhole 192.168.2.0/24",
          "ip route add 192.168.3.0/24 nexthop via 10.77.0.2 weight 2 nexthop via 10.77.0.3",
          "ip route add 192.168.4.0/24 via 192.168.9.1 dev eth0 onlink mtu 1300 advmss 1200",
          "ip route add local 192.168.5.0/24 dev lo",
          "ip -6 route add 2001:db8:1::/48 via fd77::2 metric 9",
          "ip -6 route add 2001:db8:2::/48 via fe80::1 dev eth0 table 100",
          "ip -6 route add 2001:db8:3::/48 nexthop via fd77::2 nexthop via fd77::3",
          "ip -6 route add unreachable 2001:db8:4::/48",
          "ip rule add from 198.51.100.0/24 table 100 priority 100",
          "ip rule add fwmark 7/0xff lookup 100 priority 101",
          "ip rule add not iif lo to 192.0.2.0/24 blackhole priority 102",
          "ip rule del priority 32767",
          "ip -6 rule add from 2001:db8::/64 table 100 priority 100",
          "ip neigh add 10.77.0.20 lladdr 02:00:00:00:00:20 dev eth0 nud permanent",
          "ip -6 neigh add proxy fd77::99 dev eth0",
          "echo 1 >/proc/sys/net/ipv4/ip_forward; echo 0 >/proc/sys/net/ipv4/conf/eth0/forwarding",
          "echo 2 >/proc/sys/net/ipv4/conf/all/rp_filter; echo 1 >/proc/sys/net/ipv4/conf/default/arp_ignore",
          "echo 9 >/proc/sys/net/core/somaxconn; echo 1 >/proc/sys/net/ipv4/tcp_sack; echo 2000 3000 "
          ">/proc/sys/net/ipv4/ip_local_port_range",
          "echo 1 >/proc/sys/net/ipv6/conf/eth0/use_tempaddr; echo 3 "
          ">/proc/sys/net/ipv4/neigh/eth0/ucast_solicit",
          "echo 2001:db8::dead >/proc/sys/net/ipv6/conf/eth0/stable_secret; ip link set eth0 addrgenmode "
          "eui64; echo 1000 "
          ">/proc/sys/net/ipv4/ipfrag_high_thresh "
          "|| echo 1000 >/proc/sys/net/ipv4/ipfrag_low_thresh && echo 1000 "
          ">/proc/sys/net/ipv4/ipfrag_high_thresh",
          "nft 'table inet own { set hosts { type ipv4_addr; flags timeout; elements = { 192.0.2.1 timeout "
          "1h, 192.0.2.2 } }; "
          "quota q { over 5 mbytes used 3 mbytes }; counter c { packets 12 bytes 345 }; "
          "chain in { type filter hook input priority 0; policy accept; ip saddr @hosts counter packets 5 "
          "bytes 55 drop; "
          "tcp dport 8888 counter name c log prefix \"x: \" drop; }; }; "
          "table ip nat { chain post { type nat hook postrouting priority srcnat; oifname eth0 masquerade; "
          "}; }'"});
  auto state = NetState::record({}, a.netns.get());
  ASSERT_TRUE(state);
  state->settings = box::read_net_settings(a.netns.get(), 0);
  EXPECT_GT(state->settings.size(), 300U);
  const auto wanted = look(a);
  const Host b = copy(a, NetState::parse(state->render()));
  ASSERT_TRUE(box::wait_for_carrier(b.host_end, b.netns.get(), std::chrono::seconds(5)));
  const auto seen = look(b);
  for (size_t i = 0; i < wanted.size(); ++i) EXPECT_EQ(seen[i], wanted[i]);
}

TEST_F(NetStateTest, WhatTheBoxHasTakenAwayStaysAway) {
  const Host a = plug("a", "02:00:00:00:00:0a", {"10.77.0.10/24", "fd77::10/64"}, {"10.77.0.1"});
  run_all(a, {"ip address del 127.0.0.1/8 dev lo", "ip route del 10.77.0.0/24 dev eth0 proto kernel",
              "ip route replace default via 10.77.0.1 dev eth0 onlink", "ip -6 route del fd77::/64 dev eth0",
              "ip -6 route add fd77::/64 dev eth0 metric 50", "ip rule del priority 32766",
              "ip -6 address del ::1/128 dev lo"});
  auto state = NetState::record({}, a.netns.get());
  ASSERT_TRUE(state);
  state->settings = box::read_net_settings(a.netns.get(), 0);
  const auto wanted = look(a);
  const Host b = copy(a, *state);
  ASSERT_TRUE(box::wait_for_carrier(b.host_end, b.netns.get(), std::chrono::seconds(5)));
  const auto seen = look(b);
  for (size_t i = 0; i < wanted.size(); ++i) EXPECT_EQ(seen[i], wanted[i]);
}

TEST_F(NetStateTest, WhatIsNotKnownIsLeftToCriu) {
  const Host a = plug("a", "02:00:00:00:00:0a", {"10.77.0.10/24", "fd77::10/64"});
  ASSERT_EQ(refused(a), "recorded");
  const std::pair<const char*, const char*> cases[] = {
      {"ip link add inner type bridge", "ip link del inner"},
      {"ip link add left type veth peer right", "ip link del left"},
      {"ip link set eth0 alias uplink", "ip link set eth0 alias ''"},
      {"tc qdisc add dev eth0 root tbf rate 1mbit burst 10k latency 1s", "tc qdisc del dev eth0 root"},
      {"ip nexthop add id 7 via 10.77.0.1 dev eth0; ip route add 192.0.2.0/24 nhid 7", "ip nexthop del id 7"},
      {"ip -6 route add 2001:db8::/64 via fd77::1 expires 1000", "ip -6 route del 2001:db8::/64"},
      {"ip rule add dscp 4 table 9", "ip rule del dscp 4 table 9"},
      {"nft 'add table inet own { comment \"an include\"; }'", "nft delete table inet own"},
  };
  for (const auto& [make, remove] : cases) {
    ASSERT_EQ(run_in(a, {"sh", "-c", make}), 0) << make;
    EXPECT_EQ(refused(a), "CRIU's") << make;
    ASSERT_EQ(run_in(a, {"sh", "-c", remove}), 0) << remove;
    EXPECT_EQ(refused(a), "recorded") << "after " << remove;
  }
}

TEST_F(NetStateTest, TheBoxsGroupsThatPingAreCountedAsItCounts) {
  const Host a = plug("a", "02:00:00:00:00:0a", {"10.77.0.10/24"});
  run_all(a, {"echo 100005 165535 >/proc/sys/net/ipv4/ping_group_range"});
  auto settings = box::read_net_settings(a.netns.get(), 100000);
  EXPECT_EQ(settings.at("ipv4/ping_group_range"), "5\t65535");
  EXPECT_FALSE(box::read_net_settings(a.netns.get(), 200000).contains("ipv4/ping_group_range"));
  box::in_netns(a.netns.get(), [&] { box::write_net_settings(settings, 300000); });
  EXPECT_EQ(box::read_net_settings(a.netns.get(), 300000).at("ipv4/ping_group_range"), "5\t65535");
  settings["ipv4/ping_group_range"] = "5\t4000000";
  EXPECT_THROW(box::in_netns(a.netns.get(), [&] { box::write_net_settings(settings, 100000); }), base::Error);
}

}  // namespace
