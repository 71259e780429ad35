#include "box/criu_programs.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"

namespace box {
namespace {

class ProgramsTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = testing::TempDir() + "programs.XXXXXX";
    ASSERT_NE(nullptr, ::mkdtemp(pattern.data()));
    dir_ = pattern;
  }
  void TearDown() override { base::remove_tree(dir_); }

  std::string directory(const std::string& name, const std::vector<std::string>& programs) {
    const std::string path = dir_ + "/" + name;
    base::make_directories(path);
    for (const auto& program : programs) {
      base::write_file(path + "/" + program, "");
      ::chmod((path + "/" + program).c_str(), 0755);
    }
    return path;
  }

  std::string dir_;
};

TEST_F(ProgramsTest, WithoutIptables) {
  const std::string sbin = directory("sbin", {"criu", "iptables-save", "ip"});
  const std::string bin = directory("bin", {"ip", "tar", "gzip", "sh"}), other = directory("other", {"tar"});
  const CriuPrograms found = without_iptables(other + "::" + sbin + ":" + bin);
  EXPECT_EQ(sbin + "/criu", found.criu);
  EXPECT_EQ(other + ":" + bin, found.path);
}

TEST_F(ProgramsTest, AsItIsWhereItWouldLackOne) {
  const std::string sbin = directory("sbin", {"criu", "ip6tables-legacy-restore", "ip"});
  const std::string bin = directory("bin", {"tar", "gzip", "sh"});
  EXPECT_EQ(std::nullopt, without_iptables(sbin + ":" + bin).path);
  EXPECT_EQ("criu", without_iptables(sbin + ":" + bin).criu);
  EXPECT_EQ(std::nullopt, without_iptables("").path);
  directory("bin", {"ip"});
  EXPECT_EQ(bin, without_iptables(sbin + ":" + bin).path);
}

TEST_F(ProgramsTest, WhatImagesHold) {
  const std::string images = directory("images", {"iptables-10.img", "netns-10.img"});
  EXPECT_FALSE(has_old_iptables(images));  // it is empty
  base::write_file(images + "/nftables-10.img", "table inet box {}\n");
  EXPECT_FALSE(has_old_iptables(images));
  base::write_file(images + "/ip6tables-10.img", "*filter\n");
  EXPECT_TRUE(has_old_iptables(images));
}

TEST(Programs, WhatAProcessHas) {
  // This kernel may know no old tables at all; then nobody has any.
  EXPECT_EQ(base::exists("/proc/self/net/ip_tables_names") &&
                !base::read_file("/proc/self/net/ip_tables_names").empty(),
            has_old_iptables(std::vector<pid_t>{::getpid()}));
  EXPECT_FALSE(has_old_iptables(std::vector<pid_t>{}));
}

}  // namespace
}  // namespace box
