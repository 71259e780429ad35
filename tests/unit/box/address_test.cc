#include "box/address.h"

#include <gtest/gtest.h>
#include <sys/socket.h>

#include <functional>
#include <set>

#include "base/error.h"

namespace {

using box::Address;
using box::Mac;

std::string refusal(const std::function<void()>& body) {
  try {
    body();
  } catch (const base::Error& e) {
    return e.message();
  }
  return "accepted";
}
std::string parse_refusal(std::string_view text) {
  return refusal([&] { Address::parse(text); });
}

TEST(AddressTest, ReadsAndWritesBothFamilies) {
  const Address v4 = Address::parse("10.77.0.10/24");
  EXPECT_EQ(v4.family, AF_INET);
  EXPECT_EQ(v4.bytes[0], 10);
  EXPECT_EQ(v4.bytes[3], 10);
  EXPECT_EQ(v4.prefix, 24U);
  EXPECT_EQ(v4.to_string(), "10.77.0.10/24");
  EXPECT_EQ(v4.host(), "10.77.0.10");

  const Address v6 = Address::parse("FD77:0:0::10/64");
  EXPECT_EQ(v6.family, AF_INET6);
  EXPECT_EQ(v6.bytes[0], 0xfd);
  EXPECT_EQ(v6.bytes[15], 0x10);
  EXPECT_EQ(v6.to_string(), "fd77::10/64");

  EXPECT_FALSE(Address::parse("10.77.0.10").prefix);
  EXPECT_EQ(Address::parse("fd77::10").to_string(), "fd77::10");
  EXPECT_EQ(Address::parse("fe80::1").to_string(), "fe80::1");
}

TEST(AddressTest, RefusesWhatIsNoAddress) {
  EXPECT_EQ(parse_refusal("10.77.0.300"), "'10.77.0.300' is not an IPv4 or IPv6 address");
  for (const std::string_view text :
       {"", "/24", "web1", "10.77.0", "10.77.0.1.2", "fd77:::1", " 10.77.0.1", "010.1.2.3x"})
    EXPECT_NE(parse_refusal(text).find("is not an IPv4 or IPv6 address"), std::string::npos) << text;
  EXPECT_NE(parse_refusal(std::string("10.77.0.1\0x", 11)).find("is not"), std::string::npos);
  EXPECT_EQ(parse_refusal("10.77.0.10/"), "'' in '10.77.0.10/' is not a prefix length");
  EXPECT_EQ(parse_refusal("10.77.0.10/2x"), "'2x' in '10.77.0.10/2x' is not a prefix length");
  EXPECT_EQ(parse_refusal("10.77.0.10/-1"), "'-1' in '10.77.0.10/-1' is not a prefix length");
  EXPECT_EQ(parse_refusal("10.77.0.10/33"), "/33 is not a prefix length for 10.77.0.10");
  EXPECT_EQ(parse_refusal("10.77.0.10/0"), "/0 is not a prefix length for 10.77.0.10");
  EXPECT_EQ(parse_refusal("fd77::10/129"), "/129 is not a prefix length for fd77::10");
  EXPECT_EQ(parse_refusal("10.77.0.10/99999999999"),
            "'99999999999' in '10.77.0.10/99999999999' is not a prefix length");
}

TEST(AddressTest, NamesWhatNoBoxCanHave) {
  EXPECT_EQ(parse_refusal("224.0.0.1/24"), "224.0.0.1/24 is a multicast address");
  EXPECT_EQ(parse_refusal("127.0.0.1"), "127.0.0.1 is a loopback address");
  EXPECT_EQ(parse_refusal("0.0.0.0"), "0.0.0.0 is the unspecified address");
  EXPECT_EQ(parse_refusal("0.1.2.3"), "0.1.2.3 is an address of \"this network\" (0.0.0.0/8)");
  EXPECT_EQ(parse_refusal("255.255.255.255"), "255.255.255.255 is the broadcast address");
  EXPECT_EQ(parse_refusal("10.77.0.0/24"), "10.77.0.0/24 is its network's own address, not a host's");
  EXPECT_EQ(parse_refusal("10.77.0.255/24"), "10.77.0.255/24 is its network's broadcast address");
  EXPECT_EQ(parse_refusal("10.77.1.255/23"), "10.77.1.255/23 is its network's broadcast address");
  EXPECT_EQ(parse_refusal("ff02::1"), "ff02::1 is a multicast address");
  EXPECT_EQ(parse_refusal("::1/128"), "::1/128 is the loopback address");
  EXPECT_EQ(parse_refusal("::"), ":: is the unspecified address");
  EXPECT_EQ(parse_refusal("::ffff:10.0.0.1"),
            "::ffff:10.0.0.1 is an IPv4 address in IPv6 clothes (::ffff:0:0/96)");
  EXPECT_EQ(parse_refusal("fd77::/64"), "fd77::/64 is its network's own address, not a host's");

  // What only looks like one of these.
  EXPECT_EQ(parse_refusal("10.77.0.255/23"), "accepted");
  EXPECT_EQ(parse_refusal("10.77.0.0"), "accepted");
  EXPECT_EQ(parse_refusal("10.77.0.0/31"), "accepted");
  EXPECT_EQ(parse_refusal("10.77.0.255/32"), "accepted");
  EXPECT_EQ(parse_refusal("fd77::/127"), "accepted");
  EXPECT_EQ(parse_refusal("fd77::ffff/112"), "accepted");
}

TEST(AddressTest, APrefixLengthFilledInIsCheckedToo) {
  EXPECT_EQ(Address::parse("10.77.0.10").with_prefix(16).to_string(), "10.77.0.10/16");
  EXPECT_EQ(refusal([] { (void)Address::parse("10.77.0.255").with_prefix(24); }),
            "10.77.0.255/24 is its network's broadcast address");
  EXPECT_EQ(refusal([] { (void)Address::parse("10.77.0.1").with_prefix(64); }),
            "/64 is not a prefix length for 10.77.0.1");
}

TEST(AddressTest, KnowsWhatLiesInItsNetwork) {
  const Address box = Address::parse("10.77.4.10/22");
  EXPECT_TRUE(box.contains(Address::parse("10.77.7.254")));
  EXPECT_FALSE(box.contains(Address::parse("10.77.8.1")));
  EXPECT_FALSE(box.contains(Address::parse("fd77::1")));
  EXPECT_TRUE(Address::parse("fd77::10/64").contains(Address::parse("fd77::ffff:1")));
  EXPECT_FALSE(Address::parse("fd77::10/64").contains(Address::parse("fd77:0:0:1::1")));
  EXPECT_TRUE(Address::parse("10.1.1.1").contains(Address::parse("10.1.1.1/8")));
  EXPECT_FALSE(Address::parse("10.1.1.1").contains(Address::parse("10.1.1.2")));
  EXPECT_TRUE(box.same_host(Address::parse("10.77.4.10/8")));
  EXPECT_FALSE(box.same_host(Address::parse("10.77.4.11/22")));
}

TEST(MacTest, ReadsWritesAndRefuses) {
  EXPECT_EQ(Mac::parse("02:1A:2b:3c:4d:5e").to_string(), "02:1a:2b:3c:4d:5e");
  EXPECT_EQ(refusal([] { Mac::parse("03:1a:2b:3c:4d:5e"); }), "03:1a:2b:3c:4d:5e is a multicast MAC address");
  EXPECT_EQ(refusal([] { Mac::parse("00:00:00:00:00:00"); }), "00:00:00:00:00:00 is no host's MAC address");
  for (const std::string_view text :
       {"", "02:1a:2b:3c:4d", "02-1a-2b-3c-4d-5e", "02:1a:2b:3c:4d:5g", "021a2b3c4d5e",
        "02:1a:2b:3c:4d:5e:", "2:1a:2b:3c:4d:5e:", "02:1a:2b:3c:4d:-5"})
    EXPECT_NE(refusal([&] { Mac::parse(text); }).find("is not a MAC address"), std::string::npos) << text;
}

TEST(MacTest, MakesUpLocalUnicastOnes) {
  std::set<std::string> seen;
  for (int i = 0; i < 100; ++i) {
    const std::string text = Mac::generate().to_string();
    EXPECT_EQ(text.substr(0, 3), "02:");
    EXPECT_EQ(Mac::parse(text).to_string(), text);
    seen.insert(text);
  }
  EXPECT_EQ(seen.size(), 100U);
}

TEST(MacTest, KnowsItsLinkLocalAddress) {
  EXPECT_EQ(Mac::parse("02:1a:2b:3c:4d:5e").link_local().to_string(), "fe80::1a:2bff:fe3c:4d5e/64");
  EXPECT_EQ(Mac::parse("34:56:78:9a:bc:de").link_local().host(),
            "fe80::3656:78ff:fe9a:bcde");  // RFC 4291, appendix A
}

}  // namespace
