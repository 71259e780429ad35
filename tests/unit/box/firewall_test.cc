#include "box/firewall.h"

#include <arpa/inet.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <format>
#include <span>
#include <thread>

#include "base/error.h"
#include "box/netns.h"
#include "box/network.h"
#include "tests/unit/box/rack.h"

namespace {

using namespace rack;
using std::chrono::milliseconds;

constexpr const char* kMacA = "02:00:00:00:00:0a";
constexpr const char* kMacB = "02:00:00:00:00:0b";
constexpr const char* kOther = "02:00:00:00:00:cc";
constexpr const char* kAll = "ff:ff:ff:ff:ff:ff";
constexpr const char* kNone = "00:00:00:00:00:00";
constexpr const char* kA = "10.77.0.10";
constexpr const char* kB = "10.77.0.11";
constexpr const char* kA6 = "fd77::10";
constexpr const char* kB6 = "fd77::11";
constexpr const char* kLinkA = "fe80::ff:fe00:a";  // 02:00:00:00:00:0a by RFC 4291, appendix A
constexpr const char* kNodes = "ff02::1";
constexpr unsigned kIp = 0x0800, kArp = 0x0806, kIp6 = 0x86dd;

struct Case {
  std::string name;
  Bytes frame;
};

bool ends_with(const Bytes& frame, const Bytes& end) {
  return frame.size() >= end.size() && std::ranges::equal(std::span(frame).last(end.size()), end);
}

class FirewallTest : public Rack {
 protected:
  void SetUp() override {
    Rack::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    a_ = plug("a", kMacA, {"10.77.0.10/24", "10.77.0.20/24", "fd77::10/64"});
    b_ = plug("b", kMacB, {"10.77.0.11/24", "fd77::11/64"});
  }

  void open_a() { box::open_firewall(a_.host_end, a_.mac, a_.addresses); }

  /// Whether the frame gets from one to the other. Behind it goes a frame that always may: once
  /// that one is there, the first would be there too.
  bool arrives(const Tap& from, const Tap& to, const Bytes& frame, const Bytes& follower) {
    const std::string number = std::format("{:08}", ++count_);
    const Bytes tail = text("probe" + number), end = text("follower" + number);
    to.drain();
    from.send(frame + tail);
    from.send(follower + end);
    bool seen = false;
    while (const std::optional<Bytes> got = to.next(milliseconds(2000))) {
      if (ends_with(*got, end)) return seen;
      // The tap takes a VLAN tag off the frame, so only the end is compared.
      seen |= ends_with(*got, tail);
    }
    ADD_FAILURE() << "not even the frame behind it arrived";
    return seen;
  }

  /// A frame with that end has come, or comes while frames come.
  static bool has_seen(const Tap& tap, std::string_view end) {
    while (const std::optional<Bytes> got = tap.next(milliseconds(100)))
      if (ends_with(*got, text(end))) return true;
    return false;
  }

  bool out_of_a(const Bytes& frame) {
    return arrives(*tap_a_, *tap_b_, frame,
                   ether(kAll, kMacA, kIp, ipv4(kA, "255.255.255.255", 17, udp(9, 9, {}))));
  }
  bool into_a(const Bytes& frame) {
    return arrives(*tap_b_, *tap_a_, frame,
                   ether(kAll, kMacB, kIp, ipv4(kB, "255.255.255.255", 17, udp(9, 9, {}))));
  }

  void tap() {
    tap_a_.emplace(a_.netns.get(), "eth0");
    tap_b_.emplace(b_.netns.get(), "eth0");
  }

  Host a_, b_;
  std::optional<Tap> tap_a_, tap_b_;
  unsigned count_ = 0;
};

Bytes option(unsigned type, const char* mac) { return Bytes{static_cast<uint8_t>(type), 1} + hex(mac); }
Bytes advert(const char* target, const Bytes& options = {}) {
  return hex("88 00 0000 20000000") + ip(target) + options;
}
Bytes solicit(const char* target, const Bytes& options = {}) {
  return hex("87 00 0000 00000000") + ip(target) + options;
}
Bytes router_advert() { return hex("86 00 0000 40 00 0708 00000000 00000000"); }
/// An extension header (RFC 8200): destination options or hop-by-hop, filled with a PadN.
Bytes padded(unsigned next) { return Bytes{static_cast<uint8_t>(next), 0} + hex("01 04 00000000"); }
Bytes fragment(unsigned next, unsigned offset_and_more) {
  return Bytes{static_cast<uint8_t>(next), 0, static_cast<uint8_t>(offset_and_more >> 8),
               static_cast<uint8_t>(offset_and_more & 0xff)} +
         hex("00000007");
}
/// The message of an icmpv6() packet with headers put before it.
Bytes behind(const Bytes& headers, unsigned first, const char* from, const char* to, const Bytes& message) {
  const Bytes packet = icmpv6(from, to, message);
  return ipv6(from, to, first, headers + Bytes(packet.begin() + 40, packet.end()));
}

Bytes from_a(unsigned type, const Bytes& payload) { return ether(kAll, kMacA, type, payload); }
Bytes from_b(unsigned type, const Bytes& payload) { return ether(kAll, kMacB, type, payload); }
Bytes datagram(const char* from, unsigned port = 1000) { return ipv4(from, kB, 17, udp(port, 2000, {})); }
Bytes datagram6(const char* from, unsigned port = 1000) { return ipv6(from, kB6, 17, udp(port, 2000, {})); }

std::vector<Case> forgeries() {
  const Bytes na_b = advert(kB6, option(2, kMacA));
  return {
      {"another MAC", ether(kAll, kOther, kIp, datagram(kA))},
      {"the peer's MAC", ether(kAll, kMacB, kIp6, datagram6(kA6))},
      {"the peer's IPv4 address", from_a(kIp, datagram(kB))},
      {"an IPv4 address of nobody", from_a(kIp, datagram("192.0.2.1"))},
      {"IPv4 from nowhere", from_a(kIp, ipv4("0.0.0.0", "255.255.255.255", 17, udp(68, 67, {})))},
      {"a DHCP answer", from_a(kIp, datagram(kA, 67))},
      {"an IGMP query", from_a(kIp, ipv4(kA, "224.0.0.1", 2, hex("11 64 ee9b 00000000")))},

      {"ARP request in the peer's name", from_a(kArp, arp(1, kMacA, kB, kNone, "10.77.0.1"))},
      {"ARP reply in the peer's name", from_a(kArp, arp(2, kMacA, kB, kMacB, "10.77.0.1"))},
      {"gratuitous ARP request for the peer's address", from_a(kArp, arp(1, kMacA, kB, kNone, kB))},
      {"gratuitous ARP reply for the peer's address", from_a(kArp, arp(2, kMacA, kB, kAll, kB))},
      {"ARP for its own address with another MAC inside", from_a(kArp, arp(2, kOther, kA, kMacB, kB))},
      {"ARP probe for the peer's address", from_a(kArp, arp(1, kMacA, "0.0.0.0", kNone, kB))},
      {"ARP reply from nowhere", from_a(kArp, arp(2, kMacA, "0.0.0.0", kNone, kA))},
      {"reverse ARP in an ARP frame", from_a(kArp, arp(3, kMacA, kA, kMacA, kA))},
      {"ARP with other lengths",
       from_a(kArp, hex("0001 0800 08 04 0001") + hex(kMacA) + ip(kA) + hex(kNone) + ip(kB))},

      {"the peer's IPv6 address", from_a(kIp6, datagram6(kB6))},
      {"the peer's link-local address", from_a(kIp6, datagram6("fe80::ff:fe00:b"))},
      {"an IPv6 address of nobody", from_a(kIp6, datagram6("2001:db8::1"))},
      {"UDP from the unspecified address", from_a(kIp6, datagram6("::"))},
      {"a DHCPv6 answer", from_a(kIp6, datagram6(kA6, 547))},
      {"a DHCPv6 answer behind an option", from_a(kIp6, ipv6(kA6, kB6, 60, padded(17) + udp(547, 546, {})))},

      {"advertisement of the peer's address", from_a(kIp6, icmpv6(kA6, kNodes, na_b))},
      {"the same without an option", from_a(kIp6, icmpv6(kA6, kNodes, advert(kB6)))},
      {"the same behind an option", from_a(kIp6, behind(padded(58), 60, kA6, kNodes, na_b))},
      {"the same as a fragment", from_a(kIp6, behind(fragment(58, 0), 44, kA6, kNodes, na_b))},
      {"the same as the first of two fragments",
       from_a(kIp6, behind(fragment(58, 1), 44, kA6, kNodes, na_b))},
      {"own advertisement with another MAC",
       from_a(kIp6, icmpv6(kA6, kNodes, advert(kA6, option(2, kOther))))},
      {"own advertisement with two MACs",
       from_a(kIp6, icmpv6(kA6, kNodes, advert(kA6, option(2, kMacA) + option(2, kOther))))},
      {"solicitation with another MAC", from_a(kIp6, icmpv6(kA6, kB6, solicit(kB6, option(1, kOther))))},
      {"detection of the peer's address", from_a(kIp6, icmpv6("::", "ff02::1:ff00:11", solicit(kB6)))},
      {"detection with a MAC", from_a(kIp6, icmpv6("::", "ff02::1:ff00:10", solicit(kA6, option(1, kMacA))))},
      {"router solicitation with another MAC",
       from_a(kIp6, icmpv6(kLinkA, "ff02::2", hex("85 00 0000 00000000") + option(1, kOther)))},
      {"router advertisement", from_a(kIp6, icmpv6(kLinkA, kNodes, router_advert()))},
      {"the same behind an option", from_a(kIp6, behind(padded(58), 60, kLinkA, kNodes, router_advert()))},
      {"redirect",
       from_a(kIp6, icmpv6(kLinkA, kB6, hex("89 00 0000 00000000") + ip(kA6) + ip("2001:db8::1")))},
      {"multicast query", from_a(kIp6, icmpv6(kLinkA, kNodes, hex("82 00 0000 03e8 0000") + ip("::")))},
      {"a fragment without data", from_a(kIp6, ipv6(kA6, kB6, 44, fragment(17, 1)))},
      {"a fragment behind an option",
       from_a(kIp6, ipv6(kA6, kB6, 60, padded(44) + fragment(17, 1) + Bytes(8)))},
      {"headers without an end", from_a(kIp6, ipv6(kA6, kB6, 44, fragment(60, 1) + padded(58)))},

      {"a VLAN tag", from_a(0x8100, hex("0005 0800") + datagram(kA))},
      {"a VLAN tag for priority only", from_a(0x8100, hex("0000 0800") + datagram(kA))},
      {"a VLAN tag before ARP", from_a(0x8100, hex("0005 0806") + arp(2, kMacA, kB, kMacB, kB))},
      {"a VLAN tag before IPv6", from_a(0x8100, hex("0005 86dd") + datagram6(kA6))},
      {"two VLAN tags", from_a(0x88a8, hex("0005 8100 0006 0800") + datagram(kA))},
      {"LLDP", from_a(0x88cc, hex("0207 04") + hex(kMacA))},
      {"a spanning tree's BPDU", from_a(0x0026, hex("4242 03") + Bytes(35))},
      {"PPPoE", from_a(0x8863, Bytes(20))},
      {"MPLS", from_a(0x8847, hex("00001140") + datagram(kA))},
  };
}

std::vector<Case> honest() {
  return {
      {"UDP", ether(kMacB, kMacA, kIp, datagram(kA))},
      {"UDP from its second address", from_a(kIp, datagram("10.77.0.20"))},
      {"an IPv4 fragment", from_a(kIp, hex("4500 001c 0001 0002 40 11 0000") + ip(kA) + ip(kB) + Bytes(8))},
      {"ARP request", from_a(kArp, arp(1, kMacA, kA, kNone, kB))},
      {"ARP reply", ether(kMacB, kMacA, kArp, arp(2, kMacA, "10.77.0.20", kMacB, kB))},
      {"gratuitous ARP", from_a(kArp, arp(1, kMacA, kA, kNone, kA))},
      {"ARP probe for its own address", from_a(kArp, arp(1, kMacA, "0.0.0.0", kNone, kA))},
      {"a multicast report", from_a(kIp, ipv4(kA, "224.0.0.22", 2, hex("22 00 ddff 00000000")))},

      {"UDP over IPv6", ether(kMacB, kMacA, kIp6, datagram6(kA6))},
      {"UDP from the link-local address", from_a(kIp6, datagram6(kLinkA))},
      {"UDP behind an option", from_a(kIp6, ipv6(kA6, kB6, 60, padded(17) + udp(9, 9, {})))},
      {"the first fragment of an echo",
       from_a(kIp6, behind(fragment(58, 1), 44, kA6, kB6, hex("8000 0000 00010001")))},
      {"a later fragment", from_a(kIp6, ipv6(kA6, kB6, 44, fragment(58, 1280) + Bytes(16)))},
      {"own advertisement", from_a(kIp6, icmpv6(kA6, kNodes, advert(kA6, option(2, kMacA))))},
      {"own advertisement without a MAC", from_a(kIp6, icmpv6(kA6, kB6, advert(kA6)))},
      {"advertisement of the link-local address",
       from_a(kIp6, icmpv6(kLinkA, kNodes, advert(kLinkA, option(2, kMacA))))},
      {"solicitation", from_a(kIp6, icmpv6(kA6, "ff02::1:ff00:11", solicit(kB6, option(1, kMacA))))},
      {"solicitation without a MAC", from_a(kIp6, icmpv6(kLinkA, kB6, solicit(kB6)))},
      {"detection", from_a(kIp6, icmpv6("::", "ff02::1:ff00:10", solicit(kA6)))},
      {"detection with a nonce",
       from_a(kIp6, icmpv6("::", "ff02::1:ff00:10", solicit(kA6, hex("0e01 010203040506"))))},
      {"router solicitation",
       from_a(kIp6, icmpv6(kLinkA, "ff02::2", hex("85 00 0000 00000000") + option(1, kMacA)))},
      {"router solicitation without a MAC",
       from_a(kIp6, icmpv6(kLinkA, "ff02::2", hex("85 00 0000 00000000")))},
      {"router solicitation from nowhere", from_a(kIp6, icmpv6("::", "ff02::2", hex("85 00 0000 00000000")))},
      {"multicast listener report",
       from_a(kIp6, behind(hex("3a00 0502 0000 0100"), 0, "::", "ff02::16", hex("8f00 0000 0000 0000")))},
  };
}

TEST_F(FirewallTest, ForgedFramesDoNotArriveAndHonestOnesDo) {
  tap();
  // One of the forgeries makes the bridge believe that the peer is at the box's port: it comes first, and
  // the peer puts that right.
  for (const Case& c : forgeries()) EXPECT_TRUE(out_of_a(c.frame)) << "without rules: " << c.name;
  tap_b_->send(from_b(kArp, arp(1, kMacB, kB, kNone, kB)));
  for (const Case& c : honest()) EXPECT_TRUE(out_of_a(c.frame)) << "without rules: " << c.name;
  open_a();
  for (const Case& c : forgeries()) EXPECT_FALSE(out_of_a(c.frame)) << c.name;
  for (const Case& c : honest()) EXPECT_TRUE(out_of_a(c.frame)) << c.name;
}

TEST_F(FirewallTest, NobodyElseMayClaimTheBoxsAddresses) {
  tap();
  const std::vector<Case> claims = {
      {"ARP reply", ether(kMacA, kMacB, kArp, arp(2, kMacB, kA, kMacA, kA))},
      {"ARP request", from_b(kArp, arp(1, kMacB, kA, kNone, kA))},
      {"ARP for the second address", from_b(kArp, arp(1, kMacB, "10.77.0.20", kNone, kA))},
      {"advertisement", from_b(kIp6, icmpv6(kB6, kNodes, advert(kA6, option(2, kMacB))))},
      {"advertisement of the link-local address",
       from_b(kIp6, icmpv6(kB6, kNodes, advert(kLinkA, option(2, kMacB))))},
      {"a frame for another MAC, flooded", ether(kOther, kMacB, kIp, datagram(kB))},
  };
  const std::vector<Case> fine = {
      {"UDP", ether(kMacA, kMacB, kIp, ipv4(kB, kA, 17, udp(9, 9, {})))},
      {"UDP over IPv6", ether(kMacA, kMacB, kIp6, ipv6(kB6, kA6, 17, udp(9, 9, {})))},
      {"ARP request", from_b(kArp, arp(1, kMacB, kB, kNone, kA))},
      {"ARP reply", ether(kMacA, kMacB, kArp, arp(2, kMacB, kB, kMacA, kA))},
      {"ARP probe for the box's address", from_b(kArp, arp(1, kMacB, "0.0.0.0", kNone, kA))},
      {"solicitation", from_b(kIp6, icmpv6(kB6, "ff02::1:ff00:10", solicit(kA6, option(1, kMacB))))},
      {"advertisement of the peer",
       ether(kMacA, kMacB, kIp6, icmpv6(kB6, kA6, advert(kB6, option(2, kMacB))))},
      {"multicast", ether("01:00:5e:00:00:fb", kMacB, kIp, ipv4(kB, "224.0.0.251", 17, udp(5353, 5353, {})))},
  };
  for (const Case& c : claims) EXPECT_TRUE(into_a(c.frame)) << "without rules: " << c.name;
  open_a();
  for (const Case& c : claims) EXPECT_FALSE(into_a(c.frame)) << c.name;
  for (const Case& c : fine) EXPECT_TRUE(into_a(c.frame)) << c.name;
}

TEST_F(FirewallTest, AFamilyWithoutAnAddressIsDropped) {
  tap();
  const Bytes v4 = from_a(kIp, datagram(kA)), v6 = from_a(kIp6, datagram6(kLinkA));
  box::open_firewall(a_.host_end, a_.mac, {box::Address::parse(kA)});
  EXPECT_TRUE(out_of_a(v4));
  EXPECT_FALSE(out_of_a(v6));
  box::open_firewall(a_.host_end, a_.mac, {box::Address::parse(kA6)});
  const Bytes six = from_a(kIp6, datagram6(kA6));
  EXPECT_FALSE(arrives(*tap_a_, *tap_b_, v4, six));
  EXPECT_TRUE(arrives(*tap_a_, *tap_b_, six, six));
}

TEST_F(FirewallTest, BoxesTalkThroughOpenFirewallsAndNotThroughShutOnes) {
  open_a();
  box::open_firewall(b_.host_end, b_.mac, b_.addresses);
  EXPECT_TRUE(pings(a_, kB));
  EXPECT_TRUE(pings(b_, kA));
  EXPECT_TRUE(pings(a_, kB6));
  EXPECT_TRUE(pings(b_, kA6));
  EXPECT_TRUE(pings(a_, "10.77.0.1"));
  EXPECT_TRUE(pings(a_, "fd77::1"));
  EXPECT_EQ(run_in(a_, {"ping", "-n", "-c", "1", "-W", "1", "-s", "8000", kB6}), 0) << "in fragments";
  EXPECT_EQ(run_in(a_, {"ping", "-n", "-c", "1", "-W", "1", "-s", "8000", kB}), 0) << "in fragments";

  box::shut_firewall(a_.host_end);
  EXPECT_FALSE(pings(a_, kB, 1));
  EXPECT_FALSE(pings(b_, kA6, 1));
  tap();
  tap_a_->send(from_a(kIp, datagram(kA)) + text("shut"));
  EXPECT_FALSE(has_seen(*tap_b_, "shut"));
  tap_b_->send(from_b(kIp, datagram(kB)) + text("shut"));
  EXPECT_FALSE(has_seen(*tap_a_, "shut"));

  open_a();
  EXPECT_TRUE(pings(a_, kB));
  EXPECT_TRUE(pings(b_, kA6));
}

/// A socket made in the host's namespace stays there, whoever uses it.
base::Fd socket_in(const Host& host) {
  base::Fd fd;
  box::in_netns(host.netns.get(), [&] { fd = base::Fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)); });
  return fd;
}

sockaddr_in at(const char* address) {
  sockaddr_in where = {};
  where.sin_family = AF_INET;
  where.sin_port = htons(7000);
  inet_pton(AF_INET, address, &where.sin_addr);
  return where;
}

TEST_F(FirewallTest, AConnectionOutlivesAShutFirewall) {
  open_a();
  const base::Fd listener = socket_in(a_), client = socket_in(b_);
  sockaddr_in where = at(kA);
  ASSERT_EQ(bind(listener.get(), reinterpret_cast<sockaddr*>(&where), sizeof where), 0);
  ASSERT_EQ(listen(listener.get(), 1), 0);
  ASSERT_EQ(connect(client.get(), reinterpret_cast<sockaddr*>(&where), sizeof where), 0);
  const base::Fd server(accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
  ASSERT_TRUE(server);

  box::shut_firewall(a_.host_end);
  const std::string big(200000, 'x');  // in segments larger than the MTU, as the kernel passes them over veth
  ASSERT_EQ(send(client.get(), "hello", 5, 0), 5);
  pollfd waiting = {server.get(), POLLIN, 0};
  EXPECT_EQ(poll(&waiting, 1, 300), 0) << "something came through";
  open_a();
  ASSERT_EQ(poll(&waiting, 1, 5000), 1);
  std::string got(5, ' ');
  ASSERT_EQ(recv(server.get(), got.data(), 5, MSG_WAITALL), 5);
  EXPECT_EQ(got, "hello");

  base::write_full(client.get(), big, "the connection");
  got.assign(big.size(), ' ');
  EXPECT_EQ(recv(server.get(), got.data(), got.size(), MSG_WAITALL), static_cast<ssize_t>(big.size()));
  EXPECT_EQ(got, big);
}

TEST_F(FirewallTest, StateIsToldAndRemovalIsThorough) {
  EXPECT_EQ(box::firewall_state(a_.host_end), box::Firewall::kNone);
  box::remove_firewall(a_.host_end);
  box::shut_firewall(a_.host_end);
  EXPECT_EQ(box::firewall_state(a_.host_end), box::Firewall::kShut);
  EXPECT_EQ(box::firewall_state(b_.host_end), box::Firewall::kNone);
  open_a();
  EXPECT_EQ(box::firewall_state(a_.host_end), box::Firewall::kOpen);
  open_a();
  box::shut_firewall(a_.host_end);
  box::shut_firewall(a_.host_end);
  EXPECT_EQ(box::firewall_state(a_.host_end), box::Firewall::kShut);
  box::remove_firewall(a_.host_end);
  EXPECT_EQ(box::firewall_state(a_.host_end), box::Firewall::kNone);
  EXPECT_EQ(runner_.run({.argv = {"nft", "list", "ruleset"}}).out, "");
}

TEST_F(FirewallTest, AGateShutsAndOpensTheLoadedRules) {
  box::Gate gate(a_.host_end);
  EXPECT_THROW(gate.open(), base::Error) << "nothing is loaded";
  gate.shut();
  EXPECT_EQ(box::firewall_state(a_.host_end), box::Firewall::kShut);
  EXPECT_THROW(gate.open(), base::Error) << "nothing is loaded, but shut";
  EXPECT_EQ(box::firewall_state(a_.host_end), box::Firewall::kShut);

  tap();
  box::load_firewall(a_.host_end, a_.mac, a_.addresses);
  EXPECT_EQ(box::firewall_state(a_.host_end), box::Firewall::kShut);
  for (int i = 0; i < 3; ++i) {
    EXPECT_FALSE(pings(b_, kA, 1));
    gate.open();
    EXPECT_EQ(box::firewall_state(a_.host_end), box::Firewall::kOpen);
    EXPECT_TRUE(pings(b_, kA));
    EXPECT_FALSE(out_of_a(from_a(kIp, datagram(kB))));
    gate.shut();
    EXPECT_EQ(box::firewall_state(a_.host_end), box::Firewall::kShut);
  }
  tap_a_->send(from_a(kIp, datagram(kA)) + text("shut"));
  EXPECT_FALSE(has_seen(*tap_b_, "shut"));
  tap_b_->send(from_b(kIp, datagram(kB)) + text("shut"));
  EXPECT_FALSE(has_seen(*tap_a_, "shut"));
}

TEST_F(FirewallTest, ANewCableUnderTheOldNameIsCoveredAgain) {
  open_a();
  box::delete_link(a_.host_end);
  a_ = plug("a", kMacA, {"10.77.0.10/24", "fd77::10/64"});
  // Some kernels take the chains away with the device, others keep them for the next of that name.
  box::shut_firewall(a_.host_end);
  EXPECT_EQ(box::firewall_state(a_.host_end), box::Firewall::kShut);
  EXPECT_FALSE(pings(a_, kB, 1));
  box::load_firewall(a_.host_end, a_.mac, a_.addresses);
  EXPECT_EQ(box::firewall_state(a_.host_end), box::Firewall::kShut);
  open_a();
  EXPECT_TRUE(pings(a_, kB));
  tap();
  EXPECT_FALSE(out_of_a(from_a(kIp, datagram(kB))));
}

TEST_F(FirewallTest, NothingPassesWhileOpenIsReplacedByShutAndBack) {
  tap();
  open_a();
  // Forged frames all the while: one that arrives came through a gap between two sets of rules.
  std::atomic<bool> stop = false;
  std::thread sender([&] {
    const Bytes forged = from_a(kIp, datagram(kB)) + text("forged");
    while (!stop) tap_a_->send(forged);
  });
  for (int i = 0; i < 50; ++i) {
    box::shut_firewall(a_.host_end);
    open_a();
  }
  stop = true;
  sender.join();
  EXPECT_FALSE(has_seen(*tap_b_, "forged"));
}

TEST_F(FirewallTest, AHostEndThatIsNotThereIsNamed) {
  for (const auto& call : {+[] { box::shut_firewall("vbnothere"); },
                           +[] { box::load_firewall("vbnothere", box::Mac::parse(kMacA), {}); },
                           +[] { box::open_firewall("vbnothere", box::Mac::parse(kMacA), {}); }}) {
    try {
      call();
      ADD_FAILURE() << "no error";
    } catch (const base::Error& e) {
      EXPECT_EQ(e.message(), "there is no interface vbnothere on this node");
    }
  }
}

}  // namespace
