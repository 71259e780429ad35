#include "bootstrap/node_files.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <format>

#include "base/fd.h"

namespace bootstrap {
namespace {

const std::string kNodes = "tests/unit/bootstrap/node/";

NodeFacts facts_of(const std::string& name) {
  return {.config = parse_node_config(base::read_file(kNodes + name + ".toml"), name + ".toml"),
          .macs = {"52:54:00:77:01:0a", "52:54:00:77:01:0b"},
          .machine_id = "0123456789abcdef0123456789abcdef",
          .esp = "/dev/vda2",
          .resolved = false};
}

std::string as_text(const NodeFacts& facts) {
  std::string text;
  for (const std::string& doubt : doubts(facts)) text += "doubt: " + doubt + "\n";
  for (const auto& [path, file] : node_files(facts))
    text += std::format("\n=== {} {}\n{}{}", path, file.link ? "link" : std::format("{:04o}", file.mode),
                        file.content, file.link ? "\n" : "");
  return text;
}

/// The files of one node.toml stand in NAME.golden; ACCEPT=1 writes them anew.
class NodeFilesOf : public testing::TestWithParam<const char*> {};
TEST_P(NodeFilesOf, AreAsTheyWere) {
  const std::string golden = kNodes + GetParam() + ".golden", text = as_text(facts_of(GetParam()));
  if (std::getenv("ACCEPT") != nullptr) base::write_file(golden, text);
  EXPECT_EQ(text, base::read_file(golden));
}
INSTANTIATE_TEST_SUITE_P(All, NodeFilesOf, testing::Values("default", "static", "exchanged"),
                         [](const auto& test) { return test.param; });

TEST(NodeFiles, AreCompleteWithoutAnything) {
  NodeFacts facts = {.machine_id = "0123456789abcdef0123456789abcdef"};
  EXPECT_EQ(node_name(facts), "node-abcdef");
  EXPECT_EQ(doubts(facts), std::vector<std::string>{"this machine has no Ethernet port with a driver"});
  NodeFiles files = node_files(facts);
  EXPECT_TRUE(
      files.at("/etc/systemd/network/10-drover-br0.network").content.contains("ConfigureWithoutCarrier=yes"));
  EXPECT_FALSE(files.contains("/etc/systemd/system/boot-efi.mount.d/disk.conf"));
}

TEST(NodeFiles, FromTheNetworkThereIsNoSlotToConfirm) {
  NodeFacts facts = facts_of("default");
  EXPECT_FALSE(node_files(facts).contains("/etc/systemd/system/boot-efi.mount"));
  facts.network = true;
  for (const char* unit : {"boot-efi.mount", "drover-confirm.service", "drover-deadline.timer"}) {
    NodeFile file = node_files(facts).at(std::string("/etc/systemd/system/") + unit);
    EXPECT_TRUE(file.link && file.content == "/dev/null") << unit;
  }
}

TEST(NodeFiles, OnePortMakesNoLoop) {
  NodeFacts facts = facts_of("default");
  EXPECT_TRUE(node_files(facts).at("/etc/systemd/network/10-drover-br0.netdev").content.contains("STP=yes"));
  facts.macs.pop_back();
  EXPECT_TRUE(node_files(facts).at("/etc/systemd/network/10-drover-br0.netdev").content.contains("STP=no"));
}

TEST(NodeFiles, ResolvedKeepsItsOwnNameServers) {
  NodeFacts facts = facts_of("static");
  facts.resolved = true;
  EXPECT_EQ(node_files(facts).at("/etc/resolv.conf"),
            (NodeFile{.mode = 0777, .content = "../run/systemd/resolve/stub-resolv.conf", .link = true}));
}

}  // namespace
}  // namespace bootstrap
