#include "image/root.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <sys/stat.h>

#include "tests/unit/image/image_samples.h"
#include "tests/unit/image/tree_samples.h"

namespace image {
namespace {

constexpr const char* kKey =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAICvUVVVW47maiNHlZl3hbnsubLw+0o3oLGimgK6173d+ alice@desk";

/// What packages have left there.
class RootTree : public ::testing::Test {
 protected:
  void SetUp() override {
    tree_.put("/etc/passwd", "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534::/:/bin/false\n");
    tree_.put("/etc/group", "root:x:0:\nadm:x:4:\nsudo:x:27:root\nsshd:x:1000:\nnogroup:x:65534:\n");
    tree_.put("/etc/shadow", "root:*:1::::::\nnobody:*:1::::::\n", 0640);
    base::make_directories(tree_.path() + "/usr/lib/tmpfiles.d");
  }

  void place(const std::string& text) {
    place_definition(
        parse_definition("name = \"node\"\nsuite = \"trixie\"\npackages = [\"kmod\"]\nhardware = "
                         "[\"virtio\"]\n" +
                             text,
                         "x.toml", "/nonexistent"),
        "2026112801", tree_.path());
  }
  std::string error(const std::string& text) {
    return thrown([&] { place(text); });
  }
  [[nodiscard]] struct stat look(const std::string& path) const {
    struct stat status = {};
    EXPECT_EQ(::lstat((tree_.path() + path).c_str(), &status), 0) << path;
    return status;
  }

  SampleTree tree_;
};

TEST_F(RootTree, AUserHasALineInEachFile) {
  place(
      "[[user]]\nname = \"alice\"\nuid = 1234\nshell = \"/bin/sh\"\ngroups = [\"adm\", \"sudo\"]\nssh_keys = "
      "[\"" +
      std::string(kKey) + "\"]\n");
  EXPECT_TRUE(tree_.text("/etc/passwd").ends_with("\nalice:x:1234:1234::/home/alice:/bin/sh\n"));
  EXPECT_TRUE(tree_.text("/etc/shadow").ends_with("\nalice:*:::::::\n")) << "no password";
  EXPECT_EQ(look("/etc/shadow").st_mode & 07777, 0640u);
  EXPECT_EQ(
      tree_.text("/etc/group"),
      "root:x:0:\nadm:x:4:alice\nsudo:x:27:root,alice\nsshd:x:1000:\nnogroup:x:65534:\nalice:x:1234:\n");
  EXPECT_EQ(tree_.text("/etc/ssh/authorized_keys.d/alice"), std::string(kKey) + "\n");
  EXPECT_EQ(tree_.text("/usr/lib/tmpfiles.d/drover-users.conf"), "d /home/alice 0700 alice alice\n");
}

TEST_F(RootTree, UsersGetIdsThatNobodyHas) {
  place(
      "[[user]]\nname = \"a\"\n[[user]]\nname = \"b\"\n[[user]]\nname = \"c\"\nuid = 1500\n[[user]]\nname = "
      "\"d\"\n");
  std::string passwd = tree_.text("/etc/passwd");
  EXPECT_TRUE(passwd.contains("\na:x:1001:1001:")) << "1000 is a group's";
  EXPECT_TRUE(passwd.contains("\nb:x:1002:1002:") && passwd.contains("\nc:x:1500:1500:"));
  EXPECT_TRUE(passwd.contains("\nd:x:1501:1501:")) << passwd;
}

TEST_F(RootTree, RootAndOthersThatAreThereGetKeysAndGroupsOnly) {
  std::string passwd = tree_.text("/etc/passwd");
  place("[[user]]\nname = \"root\"\ngroups = [\"sudo\", \"adm\"]\nssh_keys = [\"" + std::string(kKey) +
        "\"]\n");
  EXPECT_EQ(tree_.text("/etc/passwd"), passwd);
  EXPECT_TRUE(tree_.text("/etc/group").starts_with("root:x:0:\nadm:x:4:root\nsudo:x:27:root\n"))
      << "once each";
  EXPECT_TRUE(tree_.has("/etc/ssh/authorized_keys.d/root"));
  EXPECT_FALSE(tree_.has("/usr/lib/tmpfiles.d/drover-users.conf"));
}

TEST_F(RootTree, WhatCannotBeIsToldWithTheLine) {
  EXPECT_EQ(
      error("[[user]]\nname = \"alice\"\ngroups = [\"wheel\"]\n"),
      "error: x.toml:5: user alice: the image has no group wheel\nhint: name a group that a package makes\n");
  EXPECT_TRUE(error("[[user]]\nname = \"sudo\"\n")
                  .starts_with("error: x.toml:5: user sudo: the image has a group sudo, and no such user"));
  EXPECT_TRUE(error("[[user]]\nname = \"mallory\"\nuid = 65533\n[[user]]\nname = \"m2\"\nuid = 1000\n")
                  .starts_with("error: x.toml:8: user m2: the image has the id 1000 already"));
  EXPECT_FALSE(tree_.text("/etc/passwd").contains("m2"));
}

TEST_F(RootTree, HealthChecksAndItsOwnNameAreTheNodes) {
  place(
      "[[health]]\nname = \"ssh\"\ncommand = [\"/usr/bin/test\", \"a b\", \"\\\"\"]\nseconds = 7\n"
      "[[health]]\nname = \"two\"\ncommand = [\"/bin/true\"]\n");
  nlohmann::json health = nlohmann::json::parse(tree_.text("/etc/drover/health.json"));
  EXPECT_EQ(health, nlohmann::json::parse(
                        R"([{"name": "ssh", "command": ["/usr/bin/test", "a b", "\""], "seconds": 7},
                                              {"name": "two", "command": ["/bin/true"], "seconds": 30}])"));
  EXPECT_EQ(nlohmann::json::parse(tree_.text("/etc/drover/image.json")),
            nlohmann::json::parse(R"({"name": "node", "version": "2026112801"})"));
}

TEST_F(RootTree, WithoutChecksThereIsAnEmptyList) {
  tree_.put("/etc/machine-id", "0123456789abcdef0123456789abcdef\n");
  tree_.put("/etc/fstab", "/dev/sda1 / ext4\n");
  place("");
  EXPECT_EQ(tree_.text("/etc/drover/health.json"), "[]\n");
  EXPECT_EQ(tree_.text("/etc/machine-id"), "") << "the builder's is no node's";
  EXPECT_EQ(tree_.text("/etc/fstab"), "");
}

TEST_F(RootTree, FilesArePlacedWithOwnerAndModeAndReplaceWhatIsThere) {
  tree_.put("/etc/motd", "Debian\n");
  tree_.link("/etc/issue", "/etc/motd");
  place(
      "[[user]]\nname = \"alice\"\nuid = 1234\n"
      "[[file]]\npath = \"/etc/motd\"\ncontent = \"hello\\n\"\nmode = \"0640\"\nowner = \"alice:adm\"\n"
      "[[file]]\npath = \"/etc/issue\"\ncontent = \"own\\n\"\n"
      "[[file]]\npath = \"/opt/new/link\"\nsymlink = \"../x\"\n"
      "[[file]]\npath = \"/etc/drover/health.json\"\ncontent = \"[1]\\n\"\n");
  EXPECT_EQ(tree_.text("/etc/motd"), "hello\n");
  EXPECT_EQ(look("/etc/motd").st_mode, S_IFREG | 0640u);
  EXPECT_EQ(look("/etc/motd").st_uid, 1234u);
  EXPECT_EQ(look("/etc/motd").st_gid, 4u);
  EXPECT_EQ(look("/etc/issue").st_mode, S_IFREG | 0644u) << "not what the link led to";
  EXPECT_EQ(std::filesystem::read_symlink(tree_.path() + "/opt/new/link"), "../x");
  EXPECT_EQ(tree_.text("/etc/drover/health.json"), "[1]\n") << "the definition has the last word";
}

/// A package's link is the root's own: it leads from "/" of the root.
TEST_F(RootTree, NoFileIsPlacedOutside) {
  base::make_directories(tree_.outside());
  tree_.link("/srv/out", tree_.outside());
  const std::string file = "[[file]]\npath = \"/srv/out/x\"\ncontent = \"x\"\n";
  EXPECT_TRUE(error(file).contains("placing /srv/out/x (x.toml:5)")) << "it leads nowhere";
  base::make_directories(tree_.path() + tree_.outside());
  place(file);
  EXPECT_TRUE(tree_.has(tree_.outside() + "/x"));
  EXPECT_FALSE(base::exists(tree_.outside() + "/x"));
}

TEST_F(RootTree, PackagesAreThoseOfDpkg) {
  tree_.put("/var/lib/dpkg/status",
            "Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nSource: glibc "
            "(2.41)\nVersion: 2.41-12\n"
            "Description: x\n Package: no field\n\n"
            "Package: away\nStatus: deinstall ok config-files\nArchitecture: amd64\nVersion: 1\n\n"
            "Package: bash\nStatus: install ok installed\nVersion: 5.2\nArchitecture: amd64\n");
  tree_.put("/var/lib/dpkg/info/libc6:amd64.list", "/.\n/usr\n/usr/lib/x86_64-linux-gnu/libc.so.6\n");
  tree_.put("/var/lib/dpkg/info/bash.list", "/usr/bin/bash\n");
  tree_.put("/var/lib/dpkg/info/bash.postinst", "/no/list\n");
  Installed installed = installed_in(tree_.path());
  EXPECT_EQ(installed.packages,
            (std::vector<Package>{
                {.name = "bash", .version = "5.2", .architecture = "amd64", .source = "bash"},
                {.name = "libc6", .version = "2.41-12", .architecture = "amd64", .source = "glibc"}}));
  EXPECT_EQ(installed.owner["/usr/bin/bash"], "bash");
  EXPECT_EQ(installed.owner["/usr/lib/x86_64-linux-gnu/libc.so.6"], "libc6");
  EXPECT_FALSE(installed.owner.contains("/no/list"));
}

TEST_F(RootTree, ThereIsOneKernel) {
  EXPECT_TRUE(
      thrown([&] { kernel_version_of(tree_.path()); }).contains("expected one kernel among the packages"));
  base::make_directories(tree_.path() + "/usr/lib/modules/6.12.1");
  base::make_directories(tree_.path() + "/usr/lib/modules/6.12.2");
  tree_.put("/boot/vmlinuz-6.12.2", "kernel");
  EXPECT_EQ(kernel_version_of(tree_.path()), "6.12.2");
  tree_.put("/boot/vmlinuz-6.12.1", "kernel");
  EXPECT_TRUE(thrown([&] { kernel_version_of(tree_.path()); }).contains("found 2"));
}

}  // namespace
}  // namespace image
