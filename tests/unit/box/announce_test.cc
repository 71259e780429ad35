#include "box/announce.h"

#include <algorithm>

#include "base/error.h"
#include "box/firewall.h"
#include "box/netns.h"
#include "box/network.h"
#include "tests/unit/box/rack.h"

namespace {

using namespace rack;
using box::Address;
using std::chrono::milliseconds;

class AnnounceTest : public Rack {
 protected:
  /// Everything that comes in until nothing has come for a while, without what the kernels say on
  /// their own (multicast reports).
  static std::vector<std::string> frames(const Tap& tap) {
    std::vector<std::string> seen;
    while (const std::optional<Bytes> frame = tap.next(milliseconds(150))) {
      const std::string digits = to_hex(*frame);
      if (digits.substr(0, 12) != "333300000016") seen.push_back(digits);
    }
    return seen;
  }
};

TEST_F(AnnounceTest, SaysByteByByteWhatTheStandardsAsk) {
  const Host a = plug("a", "02:1a:2b:3c:4d:5e", {"10.77.0.10/24", "10.77.0.20/24", "fd77::10/64"});
  box::open_firewall(a.host_end, a.mac, a.addresses);
  const Tap bridge(this_netns().get(), "br0");
  frames(bridge);
  box::announce(a.netns.get(), a.mac, a.addresses).close();

  const std::string arp =
      "ffffffffffff021a2b3c4d5e0806"
      "0001080006040001"
      "021a2b3c4d5e0a4d000a"
      "0000000000000a4d000a";
  const std::string reply =
      "ffffffffffff021a2b3c4d5e0806"
      "0001080006040002"
      "021a2b3c4d5e0a4d000a"
      "ffffffffffff0a4d000a";
  const auto second = [](std::string frame) {
    for (size_t at = 0; (at = frame.find("0a4d000a", at)) != std::string::npos;)
      frame.replace(at, 8, "0a4d0014");
    return frame;
  };
  // Ethernet, IPv6 (payload 32, ICMPv6, hop limit 255), source, ff02::1, type 136 with its checksum,
  // override, target, option 2 with the MAC.
  const std::string head = "333300000001021a2b3c4d5e86dd6000000000203aff",
                    nodes = "ff020000000000000000000000000001";
  const std::string global = "fd770000000000000000000000000010", local = "fe80000000000000001a2bfffe3c4d5e";
  const std::string option = "0201021a2b3c4d5e";

  const std::vector<std::string> seen = frames(bridge);
  ASSERT_EQ(seen.size(), 6U);
  EXPECT_EQ(seen[0], arp);
  EXPECT_EQ(seen[1], reply);
  EXPECT_EQ(seen[2], second(arp));
  EXPECT_EQ(seen[3], second(reply));
  EXPECT_EQ(seen[4], head + global + nodes + "8800e0db20000000" + global + option);
  EXPECT_EQ(seen[5], head + local + nodes + "8800ef8020000000" + local + option);
  for (const std::string& frame : {seen[4], seen[5]}) {
    // Over the pseudo-header and the message, checksum included, the sum is all ones (RFC 1071).
    const Bytes bytes = hex(frame);
    ASSERT_EQ(bytes.size(), 86U);
    const Bytes pseudo = Bytes(bytes.begin() + 22, bytes.begin() + 54) + hex("00000020 0000003a");
    EXPECT_EQ(ones_sum(pseudo + Bytes(bytes.begin() + 54, bytes.end())), 0xffffU);
  }
}

TEST_F(AnnounceTest, MovesTheBoxToAnotherPortOfTheBridge) {
  const Host old = plug("old", "02:00:00:00:00:0a", {"10.77.0.10/24", "fd77::10/64"});
  const Host peer = plug("peer", "02:00:00:00:00:0b", {"10.77.0.11/24", "fd77::11/64"});
  EXPECT_TRUE(pings(peer, "10.77.0.10"));
  EXPECT_TRUE(pings(peer, "fd77::10"));
  const auto port = [&] {
    const std::string table =
        runner_.run({.argv = {"bridge", "fdb", "get", "02:00:00:00:00:0a", "br", "br0"}}).out;
    const size_t at = table.find("dev ") + 4;
    return table.substr(at, table.find(' ', at) - at);
  };
  EXPECT_EQ(port(), old.host_end);

  // The same box as it would be restored elsewhere: shut, announced once it is open.
  const Host now = plug("now", "02:00:00:00:00:0a", {"10.77.0.10/24", "fd77::10/64"});
  box::shut_firewall(old.host_end);
  box::open_firewall(now.host_end, now.mac, now.addresses);
  box::announce(now.netns.get(), now.mac, now.addresses).close();
  EXPECT_TRUE(pings(peer, "10.77.0.10"));
  EXPECT_EQ(port(), now.host_end);
}

TEST_F(AnnounceTest, RepeatsWhatTheKernelHasAskedWhileTheBoxWasShut) {
  const Host a = plug("a", "02:1a:2b:3c:4d:5e", {"10.77.0.10/24", "fd77::10/64"});
  box::shut_firewall(a.host_end);
  box::in_netns(a.netns.get(), [&] {
    // Or it might ask again just then.
    for (const std::string family : {"ipv4", "ipv6"})
      base::write_file("/proc/sys/net/" + family + "/neigh/eth0/retrans_time_ms", "100000");
    runner_.run({.argv = {"bash", "-c", "echo x >/dev/udp/10.77.0.99/9; echo x >/dev/udp/fd77::99/9"}});
  });
  box::open_firewall(a.host_end, a.mac, a.addresses);
  const Tap bridge(this_netns().get(), "br0");
  frames(bridge);
  box::announce(a.netns.get(), a.mac, a.addresses).close();

  std::vector<std::string> seen = frames(bridge);
  ASSERT_EQ(seen.size(), 6U);
  std::ranges::sort(seen);
  EXPECT_EQ(seen[4], "ffffffffffff021a2b3c4d5e08060001080006040001021a2b3c4d5e0a4d000a0000000000000a4d0063");
  // From the link-local address, to the target's group; type 135, target, option 1 with the MAC.
  EXPECT_TRUE(
      seen[2].starts_with("3333ff000099021a2b3c4d5e86dd6000000000203afffe80000000000000001a2bfffe3c4d5e"
                          "ff0200000000000000000001ff0000998700"));
  EXPECT_TRUE(seen[2].ends_with("fd7700000000000000000000000000990101021a2b3c4d5e"));
}

TEST_F(AnnounceTest, WithoutAnInterfaceThatIsUpThereIsNothingToTell) {
  const base::Fd empty = new_netns();
  box::announce(empty.get(), box::Mac::generate(), {Address::parse("10.77.0.10/24")}).close();
  const Host a = plug("a", "02:1a:2b:3c:4d:5e", {"10.77.0.10/24"});
  box::in_netns(a.netns.get(), [&] { run({"ip", "link", "set", "eth0", "down"}); });
  box::announce(a.netns.get(), a.mac, a.addresses).close();
}

class ProbeTest : public AnnounceTest {
 protected:
  static std::vector<std::string> found(const std::vector<std::string>& addresses) {
    std::vector<Address> asked;
    for (const std::string& address : addresses) asked.push_back(Address::parse(address));
    std::vector<std::string> lines;
    for (const box::Holder& holder : box::probe("br0", asked))
      lines.push_back(holder.address.host() + " " + holder.mac.to_string());
    std::ranges::sort(lines);
    return lines;
  }
};

using Lines = std::vector<std::string>;

TEST_F(ProbeTest, FindsWhoHasAnAddressAndNobodyWhereItIsFree) {
  const Host a = plug("a", "02:00:00:00:00:0a", {"10.77.0.10/24", "fd77::10/64"});
  const Host b = plug("b", "02:00:00:00:00:0b", {"10.77.0.11/24", "fd77::11/64"});
  EXPECT_EQ(found({"10.77.0.10", "10.77.0.12", "10.77.0.11/24", "fd77::10", "fd77::12", "fd77::11/64"}),
            (Lines{"10.77.0.10 02:00:00:00:00:0a", "10.77.0.11 02:00:00:00:00:0b",
                   "fd77::10 02:00:00:00:00:0a", "fd77::11 02:00:00:00:00:0b"}));
  EXPECT_EQ(found({"10.77.0.12", "fd77::12"}), Lines{});
  EXPECT_EQ(found({}), Lines{});
}

TEST_F(ProbeTest, ABoxBehindItsFirewallAnswers) {
  const Host a = plug("a", "02:00:00:00:00:0a", {"10.77.0.10/24", "fd77::10/64"});
  box::open_firewall(a.host_end, a.mac, a.addresses);
  EXPECT_EQ(found({"10.77.0.10", "fd77::10"}),
            (Lines{"10.77.0.10 02:00:00:00:00:0a", "fd77::10 02:00:00:00:00:0a"}));
  box::shut_firewall(a.host_end);
  EXPECT_EQ(found({"10.77.0.10", "fd77::10"}), Lines{});
}

TEST_F(ProbeTest, ABridgeWithoutAddressesCanAsk) {
  const Host a = plug("a", "02:00:00:00:00:0a", {"10.77.0.10/24", "fd77::10/64"});
  run({"ip", "address", "flush", "dev", "br0"});
  EXPECT_EQ(found({"10.77.0.10", "fd77::10", "fd77::12"}),
            (Lines{"10.77.0.10 02:00:00:00:00:0a", "fd77::10 02:00:00:00:00:0a"}));
}

TEST_F(ProbeTest, TheNodesOwnAddressIsFound) {
  const Lines holders = found({"10.77.0.1", "fd77::1", "10.77.0.2"});
  ASSERT_EQ(holders.size(), 2U);
  EXPECT_EQ(holders[0].substr(0, 10), "10.77.0.1 ");
  EXPECT_EQ(holders[1].substr(0, 8), "fd77::1 ");
}

TEST_F(ProbeTest, ABridgeThatIsMissingOrDownIsNamed) {
  run({"ip", "link", "set", "br0", "down"});
  for (const auto& [bridge, message] :
       {std::pair{"br0", "the bridge br0 is down"}, {"br7", "there is no bridge br7 on this node"}}) {
    try {
      box::probe(bridge, {Address::parse("10.77.0.10")});
      ADD_FAILURE() << "no error";
    } catch (const base::Error& e) {
      EXPECT_EQ(e.message(), message);
    }
  }
}

}  // namespace
