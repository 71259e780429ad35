#include "image/definition.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <format>
#include <fstream>
#include <set>
#include <sstream>

#include "base/fd.h"
#include "base/mount.h"
#include "image/hardware.h"
#include "tests/unit/base/samples.h"

namespace image {
namespace {

using base::thrown;

Definition parse(const std::string& text) { return parse_definition(text, "x.toml", "/nonexistent"); }

/// Four lines; what a test adds begins on the fifth.
constexpr const char* kLeast = R"(name = "node"
suite = "trixie"
packages = ["systemd-sysv", "criu/sid"]
hardware = ["virtio"]
)";

/// Made by ssh-keygen for this test.
constexpr const char* kKey =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAICvUVVvW47maiNHlZl3hbnsubLw+0o3oLGimgK6173d+ alice@desk";

TEST(Definition, OfTheLeast) {
  Definition node = parse(kLeast);
  EXPECT_EQ(node.name, "node");
  EXPECT_EQ(node.suite, "trixie");
  ASSERT_EQ(node.packages.size(), 2u);
  EXPECT_EQ(node.packages[1].text, "criu/sid");
  EXPECT_EQ(node.packages[1].place, "x.toml:3");
  EXPECT_EQ(node.hardware.at(0).text, "virtio");
  EXPECT_EQ(node.mirror.components, std::vector<std::string>{"main"});
  EXPECT_EQ(node.kernel.package, "linux-image-amd64");
  EXPECT_EQ(node.kernel.console, "ttyS0,115200");
  EXPECT_TRUE(node.strip.documentation && node.strip.locales && node.strip.caches);
  EXPECT_EQ(node.root.compression, "zstd,12");
  EXPECT_EQ(node.root.cluster, 65'536u);
  EXPECT_FALSE(node.slots.bytes);
  EXPECT_EQ(node.slots.factor, 4u);
  EXPECT_EQ(node.data.file_system, "ext4");
  EXPECT_EQ(node.data.bytes, 512ULL << 20);
  EXPECT_EQ(node.keys, "");
}

TEST(Definition, OfEverything) {
  Definition node = parse(std::string(R"(name = "node-1"
description = "a node"
suite = "trixie"
packages = ["systemd-sysv=257-1", "xfsprogs"]
hardware = [
  "nvme",
  "mlx5_core",
]
keys = "../keys"
[mirror]
url = "https://mirror.example/debian"
components = ["main", "non-free-firmware"]
[kernel]
package = "linux-image-cloud-amd64"
command_line = ["mitigations=auto,nosmt", "panic=10"]
console = "ttyS1,57600"
[strip]
documentation = false
keep = ["/usr/share/zoneinfo/UTC"]
drop = [
  "/usr/share/zoneinfo/*",
  "/usr/lib/udev/hwdb.?"]
[root]
compression = "lzma,109"
cluster = 1048576
[slots]
size = "2G"
[data]
file_system = "xfs"
size = "1T"
[[file]]
path = "/etc/motd"
content = "hello\n"
mode = "0600"
[[user]]
name = "root"
ssh_keys = [")") + kKey + R"("]
[[user]]
name = "alice"
uid = 1000
groups = ["adm", "systemd-journal"]
shell = "/bin/sh"
[[health]]
name = "network"
command = ["/usr/lib/systemd/systemd-networkd-wait-online", "--any"]
seconds = 60
)");
  EXPECT_EQ(node.description, "a node");
  EXPECT_EQ(node.hardware.at(1).text, "mlx5_core");
  EXPECT_EQ(node.hardware.at(1).place, "x.toml:7");
  EXPECT_EQ(node.keys, "/keys");
  EXPECT_EQ(node.mirror.components.size(), 2u);
  EXPECT_EQ(node.kernel.package, "linux-image-cloud-amd64");
  EXPECT_EQ(node.kernel.command_line.at(1).text, "panic=10");
  EXPECT_EQ(node.kernel.console, "ttyS1,57600");
  EXPECT_FALSE(node.strip.documentation);
  EXPECT_EQ(node.strip.keep.at(0).text, "/usr/share/zoneinfo/UTC");
  EXPECT_EQ(node.strip.drop.at(1).place, "x.toml:22");
  EXPECT_EQ(node.root.compression, "lzma,109");
  EXPECT_EQ(node.root.cluster, 1U << 20);
  EXPECT_EQ(node.slots.bytes, 2ULL << 30);
  EXPECT_EQ(node.data.file_system, "xfs");
  EXPECT_EQ(node.data.bytes, 1ULL << 40);
  EXPECT_EQ(node.files.at(0).mode, 0600u);
  ASSERT_EQ(node.users.size(), 2u);
  EXPECT_EQ(node.users[0].ssh_keys, std::vector<std::string>{kKey});
  EXPECT_FALSE(node.users[0].uid);
  EXPECT_EQ(node.users[1].uid, 1000u);
  EXPECT_EQ(node.users[1].groups.size(), 2u);
  EXPECT_EQ(node.users[1].shell, "/bin/sh");
  ASSERT_EQ(node.health.size(), 1u);
  EXPECT_EQ(node.health[0].command.size(), 2u);
  EXPECT_EQ(node.health[0].seconds, 60u);
}

TEST(Definition, FilesAndKeysAreBesideIt) {
  base::TempDir directory = base::TempDir::make("/tmp", "definition-");
  base::write_file(directory.path() + "/motd", "welcome\n");
  base::write_file(directory.path() + "/x.toml", "keys = \"keys\"\n" + std::string(kLeast) +
                                                     "[[file]]\npath = \"/etc/motd\"\nsource = \"motd\"\n");
  Definition node = read_definition(directory.path() + "/x.toml");
  EXPECT_EQ(node.files.at(0).content, "welcome\n");
  EXPECT_EQ(node.keys, directory.path() + "/keys");
}

/// Files of definitions, each from another one.
class DefinitionFrom : public testing::Test {
 protected:
  /// NAME.toml; what it begins with makes it whole, where it has no other.
  void write(const std::string& name, const std::string& text) const {
    base::write_file(directory_.path() + "/" + name + ".toml", text);
  }
  Definition read(const std::string& text) const {  // NOLINT(modernize-use-nodiscard)
    return parse_definition(text, "x.toml", directory_.path());
  }

  base::TempDir directory_ = base::TempDir::make("/tmp", "definition-from-");
};

TEST_F(DefinitionFrom, HasWhatTheOtherHasAndItsOwn) {
  write("node", std::string(kLeast) + R"(description = "all nodes"
keys = "keys"
[kernel]
package = "linux-image-cloud-amd64"
command_line = ["panic=10", "quiet"]
[strip]
locales = false
drop = ["/a"]
[slots]
size = "1G"
[[file]]
path = "/etc/motd"
content = "welcome"
[[health]]
name = "ssh"
command = ["/bin/true"]
)");
  Definition rack = read(R"(from = "node.toml"
name = "rack"
packages = ["nfs-common"]
hardware = ["nvme"]
[kernel]
command_line = ["panic=0"]
[strip]
drop = ["/b"]
[slots]
factor = 2
[[file]]
path = "/etc/issue"
content = "rack"
[[health]]
name = "disk"
command = ["/bin/true"]
)");
  EXPECT_EQ(rack.name, "rack");
  EXPECT_EQ(rack.description, "") << "it is another image";
  EXPECT_EQ(rack.suite, "trixie");
  EXPECT_EQ(rack.keys, directory_.path() + "/keys");
  EXPECT_EQ(base::texts_of(rack.packages),
            (std::vector<std::string>{"systemd-sysv", "criu/sid", "nfs-common"}));
  EXPECT_EQ(base::texts_of(rack.hardware), (std::vector<std::string>{"virtio", "nvme"}));
  EXPECT_EQ(rack.kernel.package, "linux-image-cloud-amd64");
  EXPECT_EQ(base::texts_of(rack.kernel.command_line), (std::vector<std::string>{"quiet", "panic=0"}));
  EXPECT_FALSE(rack.strip.locales);
  EXPECT_EQ(base::texts_of(rack.strip.drop), (std::vector<std::string>{"/a", "/b"}));
  EXPECT_FALSE(rack.slots.bytes);
  EXPECT_EQ(rack.slots.factor, 2u);
  EXPECT_EQ(rack.files.size(), 2u);
  EXPECT_EQ(rack.health.size(), 2u);
}

TEST_F(DefinitionFrom, WhatHasTheSameNameTakesItsPlace) {
  write("node", std::string(kLeast) + "[[file]]\npath = \"/a\"\ncontent = \"old\"\n[[user]]\nname = \"u\"\n" +
                    "[[health]]\nname = \"h\"\ncommand = [\"/old\"]\n");
  Definition own = read(
      "from = \"node.toml\"\nname = \"own\"\npackages = [\"criu=4.2\"]\n[[file]]\npath = \"/a\"\ncontent = "
      "\"new\"\n"
      "[[user]]\nname = \"u\"\nuid = 2000\n[[health]]\nname = \"h\"\ncommand = [\"/new\"]\n");
  EXPECT_EQ(base::texts_of(own.packages), (std::vector<std::string>{"systemd-sysv", "criu=4.2"}));
  ASSERT_EQ(own.files.size(), 1u);
  EXPECT_EQ(own.files[0].content, "new");
  ASSERT_EQ(own.users.size(), 1u);
  EXPECT_EQ(own.users[0].uid, 2000u);
  ASSERT_EQ(own.health.size(), 1u);
  EXPECT_EQ(own.health[0].command, std::vector<std::string>{"/new"});
}

TEST_F(DefinitionFrom, IsTheSameImageInHoweverManyFiles) {
  write("node", "suite = \"trixie\"\npackages = [\"systemd-sysv\"]\n");
  write("virtual", "from = \"node.toml\"\nhardware = [\"virtio\"]\n");
  EXPECT_EQ(read("from = \"virtual.toml\"\nname = \"node\"\npackages = [\"criu/sid\"]\n").hash,
            parse(kLeast).hash);
}

TEST_F(DefinitionFrom, FilesAreBesideTheOneThatNamesThem) {
  base::make_directories(directory_.path() + "/shared");
  write("shared/node", std::string(kLeast) + "[[file]]\npath = \"/etc/motd\"\nsource = \"motd\"\n");
  base::write_file(directory_.path() + "/shared/motd", "welcome\n");
  EXPECT_EQ(read("from = \"shared/node.toml\"\nname = \"own\"\n").files.at(0).content, "welcome\n");
}

TEST_F(DefinitionFrom, WhatIsWrongIsToldWhereItStands) {
  std::string node = directory_.path() + "/node.toml";
  auto error = [&](const std::string& base, const std::string& own) {
    write("node", base);
    return thrown([&] { read("from = \"node.toml\"\n" + own); });
  };
  EXPECT_TRUE(error("suite = 7\n", "").starts_with("error: " + node + ":1: suite: expected a string"));
  EXPECT_TRUE(error("suit = \"trixie\"\n", "").starts_with("error: " + node + ":1: unknown key suit"));
  EXPECT_TRUE(error("hardware = [\"all\"]\n", "hardware = [\"nvme\"]\n")
                  .starts_with("error: " + node + ":1: hardware: expected \"all\" alone"));
  EXPECT_TRUE(error("suite = \"trixie\"\n", "hardware = [\"all\"]\n")
                  .starts_with("error: x.toml:1: name is missing"));
  EXPECT_TRUE(
      error("hardware = [\"all\"]\n", "name = \"own\"\n").starts_with("error: x.toml:1: suite is missing"));
  EXPECT_TRUE(
      error("suite = \"trixie\"\n", "name = \"own\"\n").starts_with("error: x.toml:1: hardware is missing"));
  EXPECT_TRUE(error(std::string(kLeast) + "[[user]]\nname = \"a\"\nuid = 2000\n",
                    "name = \"own\"\n[[user]]\nname = \"b\"\nuid = 2000\n")
                  .starts_with("error: x.toml:3: user: expected each uid once"));
  EXPECT_TRUE(error(std::string(kLeast) + "[data]\nfile_system = \"xfs\"\n", "name = \"own\"\n")
                  .contains("xfsprogs"));
}

TEST_F(DefinitionFrom, ThereIsNone) {
  EXPECT_TRUE(thrown([&] {
                read("from = \"gone.toml\"\n");
              }).starts_with("error: x.toml:1: from: expected a file beside the definition, found no file"));
  EXPECT_TRUE(
      thrown([&] { read("from = \"/dev/null\"\n"); }).starts_with("error: x.toml:1: name is missing"));
}

TEST_F(DefinitionFrom, ARingEnds) {
  write("a", "from = \"b.toml\"\n");
  write("b", "from = \"a.toml\"\n");
  std::string error = thrown([&] { read("from = \"a.toml\"\n"); });
  EXPECT_TRUE(error.contains(":1: from: expected at most 8 definitions, each from the next")) << error;
}

TEST(Definition, SizesAreInBinaryUnits) {
  auto slot = [](const std::string& size) {
    return *parse(kLeast + ("[slots]\nsize = \"" + size + "\"")).slots.bytes;
  };
  EXPECT_EQ(slot("16M"), 16ULL << 20);
  EXPECT_EQ(slot("3G"), 3ULL << 30);
  EXPECT_EQ(slot("64T"), 64ULL << 40);
}

TEST(DefinitionHash, IsOfWhatIsMeant) {
  const std::string hash = parse(kLeast).hash;
  EXPECT_EQ(hash.size(), 64u);
  EXPECT_EQ(parse_definition(kLeast, "other.toml", "/elsewhere").hash, hash);
  EXPECT_EQ(parse("# a comment\n\n" + std::string(kLeast)).hash, hash);
  EXPECT_EQ(parse("keys = \"keys\"\n" + std::string(kLeast)).hash, hash) << "who signs it";
  EXPECT_EQ(parse(kLeast + std::string("[mirror]\nurl = \"http://a/\"")).hash, hash) << "where it comes from";
  EXPECT_EQ(parse(kLeast + std::string("[kernel]\nconsole = \"ttyS0,115200\"")).hash, hash)
      << "the default, said";
}

TEST(DefinitionHash, ChangesWithEverythingElse) {
  std::set<std::string> hashes = {parse(kLeast).hash};
  size_t count = 1;
  auto add = [&](const std::string& more, const std::string& from = "", const std::string& to = "") {
    std::string text = kLeast;
    if (!from.empty()) text.replace(text.find(from), from.size(), to);
    hashes.insert(parse(text + more).hash);
    EXPECT_EQ(hashes.size(), ++count) << more << to;
  };
  add("", "\"node\"", "\"edge\"");
  add("description = \"a\"");
  add("", "trixie", "sid");
  add("", "\"criu/sid\"", "\"criu\"");
  add("", ", \"criu/sid\"", "");
  add("", "virtio", "nvme");
  add("[mirror]\ncomponents = [\"main\", \"contrib\"]");
  add("[kernel]\npackage = \"linux-image-cloud-amd64\"");
  add("[kernel]\ncommand_line = [\"quiet\"]");
  add("[kernel]\ncommand_line = [\"quiet\", \"quiet\"]");
  add("[kernel]\nconsole = \"\"");
  for (const char* flag : {"documentation", "locales", "caches"})
    add(std::format("[strip]\n{} = false", flag));
  add("[strip]\nkeep = [\"/a\"]");
  add("[strip]\ndrop = [\"/a\"]");
  add("[root]\ncompression = \"zstd\"");
  add("[root]\ncluster = 4096");
  add("[slots]\nsize = \"1G\"");
  add("[slots]\nfactor = 2");
  add("[data]\nfile_system = \"xfs\"", "\"criu/sid\"", "\"xfsprogs\"");
  add("[data]\nsize = \"1G\"");
  const std::string file = "[[file]]\npath = \"/a\"\n";
  add(file + "content = \"\"");
  add(file + "content = \"b\"");
  add(file + "symlink = \"b\"");
  add(file + "directory = true");
  add(file + "content = \"\"\nmode = \"0600\"");
  add(file + "content = \"\"\nowner = \"adm\"");
  add(file + "content = \"\"\nowner = \"root:adm\"");
  add(file + "content = \"\"\nearly = true");
  const std::string user = "[[user]]\nname = \"a\"\n";
  add(user);
  add(user + "uid = 1000");
  add(user + "groups = [\"adm\"]");
  add(user + "shell = \"/bin/sh\"");
  add(user + "ssh_keys = [\"" + kKey + "\"]");
  const std::string health = "[[health]]\nname = \"a\"\n";
  add(health + "command = [\"/bin/true\"]");
  add(health + "command = [\"/bin/true\", \"\"]");
  add(health + "command = [\"/bin/true\"]\nseconds = 31");
}

TEST(Definition, ThatIsNotThere) {
  std::string error = thrown([] { read_definition("/nonexistent/x.toml"); });
  EXPECT_EQ(error,
            "error: there is no definition /nonexistent/x.toml\n"
            "hint: name a TOML file, such as those in image/definitions\n");
}

std::set<std::string> texts(const std::vector<base::Word>& words) {
  std::set<std::string> texts;
  for (const base::Word& word : words) texts.insert(word.text);
  return texts;
}

TEST(ShippedDefinitions, AreGood) {
  Definition metal = read_definition("image/definitions/node-metal.toml");
  EXPECT_EQ(metal.name, "node-metal");
  EXPECT_EQ(texts(metal.hardware), std::set<std::string>{"all"});
  Definition vm = read_definition("image/definitions/node-vm.toml");
  EXPECT_EQ(vm.name, "node-vm");
  EXPECT_TRUE(texts(vm.hardware).contains("virtio"));
  EXPECT_FALSE(vm.health.empty());
}

/// ci/node-packages.txt says what drover-node needs; images have it, but for the kernel.
TEST(ShippedDefinitions, HaveWhatNodesNeed) {
  std::set<std::string> packages = texts(read_definition("image/definitions/node-vm.toml").packages);
  std::ifstream list("ci/node-packages.txt");
  size_t count = 0;
  for (std::string line; std::getline(list, line);) {
    std::istringstream words(line.substr(0, line.find('#')));
    std::string name, suite;
    if (!(words >> name) || name.starts_with("linux-image-")) continue;
    if (words >> suite) name += "/" + suite;
    EXPECT_TRUE(packages.contains(name)) << name;
    ++count;
  }
  EXPECT_GT(count, 10u);
}

TEST(Hardware, IsFoundByName) {
  std::set<std::string_view> names;
  for (const Family& family : hardware_families()) {
    EXPECT_TRUE(names.insert(family.name).second) << family.name;
    EXPECT_EQ(find_family(family.name), &family);
    EXPECT_FALSE(family.modules.empty()) << family.name;
    EXPECT_TRUE(family.what.ends_with('.')) << family.name;
    EXPECT_NE(family.name, "all");
  }
  EXPECT_EQ(find_family("nvmee"), nullptr);
}

/// A hyphen would never be found: names are compared as lsmod writes them.
TEST(Hardware, ModulesAreWrittenAsLsmodDoes) {
  std::vector<std::string_view> modules(initrd_modules().begin(), initrd_modules().end());
  modules.insert(modules.end(), node_modules().begin(), node_modules().end());
  EXPECT_EQ(std::set(modules.begin(), modules.end()).size(), modules.size()) << "one is named twice";
  for (const Family& family : hardware_families())
    modules.insert(modules.end(), family.modules.begin(), family.modules.end());
  for (std::string_view module : modules)
    EXPECT_EQ(module.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_"),
              std::string_view::npos)
        << module;
}

TEST(Hardware, IsDocumented) {
  auto page = base::read_file_if_exists("docs/formats/image-definition.md", 1 << 20);
  ASSERT_TRUE(page);
  for (const Family& family : hardware_families())
    EXPECT_TRUE(page->contains(std::format("| `{}` | {} |", family.name, family.what)))
        << std::format("| `{}` | {} |", family.name, family.what);
}

}  // namespace
}  // namespace image
