#include "box/network.h"

#include <net/if.h>

#include <algorithm>
#include <functional>

#include "base/error.h"
#include "box/netns.h"
#include "tests/unit/box/rack.h"

namespace {

using namespace rack;
using box::Address;

std::string refusal(const std::function<void()>& body) {
  try {
    body();
  } catch (const base::Error& e) {
    return e.message();
  }
  return "accepted";
}

std::vector<std::string> texts(const std::vector<Address>& addresses) {
  std::vector<std::string> lines;
  for (const Address& address : addresses) lines.push_back(address.to_string());
  std::ranges::sort(lines);
  return lines;
}

using Lines = std::vector<std::string>;

TEST(NetworkNamesTest, FitIntoAnInterfaceNameAndDifferByBox) {
  EXPECT_EQ(box::host_end_name("web1"), box::host_end_name("web1"));
  EXPECT_NE(box::host_end_name("web1"), box::host_end_name("web2"));
  EXPECT_NE(box::host_end_name("web1"), box::other_end_name("web1"));
  const std::string longest(63, 'x');
  EXPECT_LT(box::host_end_name(longest).size(), static_cast<size_t>(IFNAMSIZ));
  EXPECT_EQ(box::host_end_name(longest).substr(0, 2), "vb");
}

class NetworkTest : public Rack {
 protected:
  std::string out_of(const Host& host, const std::vector<std::string>& argv) {
    std::string out;
    box::in_netns(host.netns.get(), [&] { out = runner_.run({.argv = argv}).out; });
    return out;
  }
};

TEST_F(NetworkTest, ABoxGetsItsAddressesAndRoutes) {
  run({"ip", "link", "set", "br0", "mtu", "1400"});
  const Host a = plug("a", "02:00:00:00:00:0a", {"10.77.0.10/24", "192.0.2.7/32", "fd77::10/64"},
                      {"10.77.0.1", "fd77::1"});
  EXPECT_EQ(texts(box::box_addresses(a.netns.get())),
            (Lines{"10.77.0.10/24", "192.0.2.7/32", "fd77::10/64"}));

  const std::string link = out_of(a, {"ip", "-o", "link", "show", "eth0"});
  EXPECT_NE(link.find("mtu 1400"), std::string::npos) << link;
  EXPECT_NE(link.find("02:00:00:00:00:0a"), std::string::npos) << link;
  EXPECT_NE(link.find("UP,LOWER_UP"), std::string::npos) << link;
  EXPECT_NE(out_of(a, {"ip", "-o", "link", "show", "lo"}).find("LOOPBACK,UP"), std::string::npos);

  const std::string addresses = out_of(a, {"ip", "-o", "address", "show", "dev", "eth0"});
  EXPECT_EQ(addresses.find("tentative"), std::string::npos)
      << "every address is usable at once: " << addresses;
  EXPECT_NE(addresses.find("fe80::ff:fe00:a/64"), std::string::npos) << addresses;
  EXPECT_NE(addresses.find("brd 10.77.0.255"), std::string::npos) << addresses;

  EXPECT_NE(out_of(a, {"ip", "route"}).find("default via 10.77.0.1 dev eth0"), std::string::npos);
  EXPECT_NE(out_of(a, {"ip", "-6", "route"}).find("default via fd77::1 dev eth0"), std::string::npos);
  EXPECT_TRUE(pings(a, "10.77.0.1"));
  EXPECT_TRUE(pings(a, "fd77::1"));
  EXPECT_EQ(texts(box::default_gateways()), Lines{}) << "the caller's own namespace stays what it was";
}

TEST_F(NetworkTest, AGatewayOutsideOfThePrefixIsReachedOnLink) {
  const Host a =
      plug("a", "02:00:00:00:00:0a", {"192.0.2.7/32", "2001:db8::7/128"}, {"10.77.0.1", "fe80::1"});
  EXPECT_NE(out_of(a, {"ip", "route"}).find("default via 10.77.0.1 dev eth0 proto static onlink"),
            std::string::npos);
  EXPECT_NE(out_of(a, {"ip", "-6", "route"}).find("default via fe80::1 dev eth0"), std::string::npos);
}

TEST_F(NetworkTest, TheNodeStaysOutOfTheBox) {
  const std::string before = runner_.run({.argv = {"ip", "-o", "link", "show", "br0"}}).out;
  const std::string mac = before.substr(before.find("link/ether "), 28);
  const Host a = plug("a", "02:00:00:00:00:0a", {"10.77.0.10/24"});
  EXPECT_EQ(runner_.run({.argv = {"ip", "-o", "address", "show", "dev", a.host_end}}).out, "");
  EXPECT_NE(runner_.run({.argv = {"ip", "-o", "link", "show", a.host_end}}).out.find("link/ether fe:"),
            std::string::npos);
  EXPECT_NE(runner_.run({.argv = {"ip", "-o", "link", "show", "br0"}}).out.find(mac), std::string::npos)
      << "the bridge keeps its MAC";
  box::delete_link(a.host_end);
  EXPECT_NE(runner_.run({.argv = {"ip", "-o", "link", "show", "br0"}}).out.find(mac), std::string::npos);
}

TEST_F(NetworkTest, ABoxDoesNotListenToRouterAdvertisements) {
  const Host a = plug("a", "02:00:00:00:00:0a", {"fd77::10/64"});
  // A prefix for autoconfiguration: 2001:db8:1::/64, and a router lifetime.
  const Bytes advert = hex("86 00 0000 40 00 0708 00000000 00000000") +
                       hex("03 04 40 c0 00278d00 00093a80 00000000") + ip("2001:db8:1::");
  const Tap bridge(this_netns().get(), "br0");
  bridge.send(ether("33:33:00:00:00:01", "02:00:00:00:00:99", 0x86dd, icmpv6("fe80::99", "ff02::1", advert)));
  EXPECT_TRUE(pings(a, "fd77::1"));
  EXPECT_EQ(texts(box::box_addresses(a.netns.get())), Lines{"fd77::10/64"});
  EXPECT_EQ(out_of(a, {"ip", "-6", "route"}).find("default"), std::string::npos);
}

TEST_F(NetworkTest, CarrierComesAtOnceAlsoWhereBothEndsHadTheSameIndex) {
  const Host a = plug("a", "02:00:00:00:00:0a", {"10.77.0.10/24"});
  run({"ip", "link", "set", a.host_end, "down"});
  EXPECT_FALSE(box::wait_for_carrier(a.host_end, a.netns.get(), std::chrono::milliseconds(20)));
  run({"ip", "link", "set", a.host_end, "up"});
  EXPECT_TRUE(box::wait_for_carrier(a.host_end, a.netns.get(), std::chrono::seconds(5)));
  unsigned inside = 0;
  box::in_netns(a.netns.get(), [&] { inside = if_nametoindex("eth0"); });
  EXPECT_NE(inside, if_nametoindex(a.host_end.c_str()));
  box::in_netns(a.netns.get(), [&] { run({"ip", "link", "set", "eth0", "down"}); });
  EXPECT_TRUE(box::wait_for_carrier(a.host_end, a.netns.get(), std::chrono::seconds(0)))
      << "there is nothing to wait for";
}

TEST_F(NetworkTest, TheNodesOwnAddressesAndGatewaysAreTold) {
  run({"ip", "address", "add", "192.0.2.1/25", "dev", "br0"});
  run({"ip", "route", "add", "default", "via", "10.77.0.254", "metric", "200"});
  run({"ip", "route", "add", "default", "via", "192.0.2.2", "metric", "100"});
  run({"ip", "route", "add", "198.51.100.0/24", "via", "10.77.0.253"});
  run({"ip", "route", "add", "blackhole", "203.0.113.0/24"});
  run({"ip", "-6", "route", "add", "default", "via", "fe80::1", "dev", "br0", "metric", "300"});
  EXPECT_EQ(box::bridge_mtu("br0"), 1500U);
  EXPECT_EQ(texts(box::bridge_addresses("br0")), (Lines{"10.77.0.1/24", "192.0.2.1/25", "fd77::1/64"}));
  Lines gateways;
  for (const Address& gateway : box::default_gateways()) gateways.push_back(gateway.to_string());
  EXPECT_EQ(gateways, (Lines{"192.0.2.2", "10.77.0.254", "fe80::1"})) << "preferred first";
}

TEST_F(NetworkTest, WhatIsMissingOrInTheWayIsNamed) {
  EXPECT_EQ(refusal([] { (void)box::bridge_mtu("br7"); }), "there is no bridge br7 on this node");
  EXPECT_EQ(refusal([] { (void)box::bridge_mtu("lo"); }), "lo is not a bridge");
  EXPECT_EQ(refusal([] { box::set_up("vbx"); }), "there is no interface vbx on this node");
  EXPECT_EQ(refusal([] { box::attach_to_bridge("vbx", "br7"); }), "there is no bridge br7 on this node");
  EXPECT_EQ(refusal([] { box::attach_to_bridge("vbx", "br0"); }), "there is no interface vbx on this node");

  EXPECT_FALSE(box::link_exists("vbx"));
  box::delete_link("vbx");
  box::create_veth("vbx", "vpx", 1500);
  EXPECT_TRUE(box::link_exists("vbx"));
  EXPECT_TRUE(box::link_exists("vpx"));
  EXPECT_EQ(refusal([] { box::create_veth("vbx", "vpx", 1500); }),
            "there is an interface vbx or vpx on this node already");
  EXPECT_EQ(refusal([] { box::create_veth("vby", "vpx", 1500); }),
            "there is an interface vby or vpx on this node already");
  EXPECT_FALSE(box::link_exists("vby"));

  const Host a = plug("a", "02:00:00:00:00:0a", {"10.77.0.10/24"});
  box::Eth0 eth0{box::Mac::generate(), {Address::parse("10.77.0.12/24")}, {}};
  EXPECT_NE(refusal([&] {
              box::move_into("vpx", a.netns.get(), eth0);
            }).find("cannot move vpx into the box as eth0"),
            std::string::npos);
  box::delete_link("vbx");
  box::create_veth("vbx", "vpx", 1500);
  eth0.addresses[0].prefix.reset();
  EXPECT_EQ(refusal([&] { box::move_into("vpx", a.netns.get(), eth0); }),
            "the address 10.77.0.12 has no prefix length");
  box::delete_link("vbx");
  EXPECT_FALSE(box::link_exists("vpx"));
  EXPECT_EQ(texts(box::box_addresses(new_netns().get())), Lines{});
}

TEST_F(NetworkTest, AnIndexThatSomebodyHasIsNoObstacle) {
  box::create_veth("vbx", "vpx", 1500);
  const unsigned index = if_nametoindex("vbx");
  box::delete_link("vbx");
  run({"ip", "link", "add", "squatter", "index", std::to_string(index), "type", "bridge"});
  box::create_veth("vbx", "vpx", 1500);
  EXPECT_NE(if_nametoindex("vbx"), index);
}

}  // namespace
