#include "bootstrap/node_config.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <utility>

#include "tests/unit/base/samples.h"

namespace bootstrap {
namespace {

std::string refused(const std::string& text) {
  return base::thrown([&] { parse_node_config(text, "node.toml"); });
}

TEST(NodeConfig, MayBeEmpty) {
  NodeConfig config = parse_node_config("", "node.toml");
  EXPECT_TRUE(config.name.empty() && config.interfaces.empty() && config.users.empty());
}

TEST(NodeConfig, AnInterfaceIsAPortOfTheBridgeUnlessItSaysOtherwise) {
  NodeConfig config = parse_node_config("[[interface]]\nmac = \"52:54:00:AB:cd:ef\"\n", "node.toml");
  ASSERT_EQ(config.interfaces.size(), 1u);
  EXPECT_EQ(config.interfaces[0].mac, "52:54:00:ab:cd:ef");
  EXPECT_TRUE(config.interfaces[0].bridge);
  EXPECT_FALSE(config.interfaces[0].dhcp);
}

TEST(NodeConfig, SaysWhichLineIsWrong) {
  const std::string port = "[[interface]]\nmac = \"52:54:00:77:01:01\"\n";
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"name = \"-x\"\n",
       "node.toml:1: name: expected a host name: letters, digits and hyphens, at most 63, found \"-x\""},
      {"\nnames = \"x\"\n", "node.toml:2: unknown key names"},
      {"dns = [\"10.0.0.1\",\n\"ten\"]\n", "node.toml:2: dns: expected an address"},
      {"search = [\"a..b\"]\n", "node.toml:1: search: expected a domain, found \"a..b\""},
      {"time_servers = [\"a b\"]\n", "node.toml:1: time_servers: expected an address or a host name"},
      {"boot_server = \"10.0.0.1\"\n", "node.toml:1: boot_server: expected a URL"},
      {"ssh_keys = [\"command=\\\"x\\\" ssh-ed25519 AAAA\"]\n",
       "node.toml:1: ssh_keys: expected a line of authorized_keys"},
      {"ssh_keys = [\"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKey0fAnOperatorThatIsNobodysOwn0\\nssh-rsa x\"]\n",
       "node.toml:1: ssh_keys: expected a line of authorized_keys"},
      {"fleet_keys = [\"restrict ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKey0fNode8ThatIsNobodysOwnKey00\"]\n",
       "node.toml:1: fleet_keys: expected a line of authorized_keys"},
      {"[[interface]]\nbridge = true\n", "node.toml:1: interface.mac is missing"},
      {"[[interface]]\nmac = \"53:54:00:77:01:01\"\n", "node.toml:2: interface.mac: expected six pairs"},
      {"[[interface]]\nmac = \"52:54:00:77:01\"\n", "node.toml:2: interface.mac: expected six pairs"},
      {port + "addresses = [\"10.0.0.1\"]\n", "node.toml:3: addresses: expected an address with its prefix"},
      {port + "addresses = [\"10.0.0.1/33\"]\n",
       "node.toml:3: addresses: expected an address with its prefix"},
      {port + "gateways = [\"10.0.0.1/24\"]\n", "node.toml:3: gateways: expected an address"},
      {port + "gateways = [\"10.0.0.1\", \"10.0.0.2\"]\n", "node.toml:3: gateways: expected at most one"},
      {port + "mtu = 67\n", "node.toml:3: interface.mtu: expected a whole number from 68 to 65535, found 67"},
      {port + "bridge = \"br1\"\n", "node.toml:3: interface.bridge: expected true or false"},
      {port + port, "node.toml:4: mac: 52:54:00:77:01:01 stands in two tables"},
      {"[[user]]\nname = \"../x\"\n", "node.toml:2: user.name: expected a user of the image"},
      {"[[user]]\nname = \"a\"\n[[user]]\nname = \"a\"\n", "node.toml:4: name: a stands in two tables"},
      {"[interface]\n", "node.toml:1: interface: expected tables"},
      {"name = \n", "node.toml:1: "},
  };
  for (const auto& [text, expected] : cases) {
    EXPECT_TRUE(refused(text).starts_with("error: " + expected)) << text << refused(text);
    EXPECT_EQ(std::ranges::count(refused(text).substr(0, refused(text).find("\nhint")), '\n') <= 1, true)
        << text;
  }
}

TEST(NodeConfig, AddressesAndTheirFamilies) {
  EXPECT_EQ(family_of("10.0.0.1", false), 4);
  EXPECT_EQ(family_of("fd77::1", false), 6);
  EXPECT_EQ(family_of("fd77::1/128", true), 6);
  for (const char* wrong :
       {"", "/", "10.0.0.1/", "10.0.0.1/+4", "10.0.0.1/4x", "10.0.0.1/33", "fd77::/129", "x/8"})
    EXPECT_FALSE(family_of(wrong, true)) << wrong;
  EXPECT_FALSE(family_of("10.0.0.1/8", false));
}

}  // namespace
}  // namespace bootstrap
