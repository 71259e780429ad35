#include "image/strip.h"

#include <gtest/gtest.h>

#include "tests/unit/image/image_samples.h"
#include "tests/unit/image/tree_samples.h"

namespace image {
namespace {

constexpr const char* kVersion = "6.12.1";
const std::string kModules = "/usr/lib/modules/6.12.1/", kFirmware = "/usr/lib/firmware/";

class StripRoot : public ::testing::Test {
 protected:
  /// With these modules and firmware to stay.
  std::map<std::string, Removed> strip(const std::set<std::string>& modules = {},
                                       const std::set<std::string>& firmware = {}) {
    return strip_root(tree_.path(), rules_, kVersion, modules, firmware);
  }
  void drop(const std::string& pattern) { rules_.drop.push_back({.text = pattern}); }
  void keep(const std::string& pattern) { rules_.keep.push_back({.text = pattern}); }
  [[nodiscard]] bool has(const std::string& path) const { return tree_.has(path); }

  SampleTree tree_;
  Definition::Strip rules_;
};

TEST_F(StripRoot, APatternsStarDoesNotMatchASlash) {
  for (const char* path :
       {"/usr/share/x/a.txt", "/usr/share/x/below/a.txt", "/usr/share/xy/b.txt", "/usr/share/x/a.bin"})
    tree_.put(path, "12345");
  drop("/usr/share/x/*.txt");
  auto removed = strip();
  EXPECT_FALSE(has("/usr/share/x/a.txt"));
  EXPECT_TRUE(has("/usr/share/x/below/a.txt") && has("/usr/share/xy/b.txt") && has("/usr/share/x/a.bin"));
  ASSERT_TRUE(removed.contains("drop /usr/share/x/*.txt"));
  EXPECT_EQ(removed["drop /usr/share/x/*.txt"].files, 1u);
  EXPECT_EQ(removed["drop /usr/share/x/*.txt"].bytes, 5u);
}

TEST_F(StripRoot, ADirectoryGoesWithAllThatIsInIt) {
  tree_.put("/usr/lib/x/a/b/c", "1");
  tree_.put("/usr/lib/x/d", "22");
  drop("/usr/lib/x");
  drop("/usr/lib/no-such");
  auto removed = strip();
  EXPECT_FALSE(has("/usr/lib/x"));
  EXPECT_EQ(removed["drop /usr/lib/x"].files, 2u);
  EXPECT_EQ(removed["drop /usr/lib/x"].bytes, 3u);
  EXPECT_FALSE(removed.contains("drop /usr/lib/no-such"));
}

TEST_F(StripRoot, KeepWinsOverEveryRule) {
  for (const char* path :
       {"/usr/share/zoneinfo/UTC", "/usr/share/zoneinfo/Etc/UTC", "/usr/share/zoneinfo/Asia/Tokyo",
        "/usr/share/man/man1/ls.1", "/usr/share/man/man1/cp.1", "/usr/bin/apt-get", "/usr/bin/dpkg"})
    tree_.put(path, "x");
  tree_.put(kModules + "kernel/odd.ko", "x");
  tree_.put(kFirmware + "odd.bin", "x");
  drop("/usr/share/zoneinfo");
  for (const std::string& path :
       {std::string("/usr/share/zoneinfo/UTC"), std::string("/usr/share/zoneinfo/Etc"),
        std::string("/usr/share/man/man1/ls*"), std::string("/usr/bin/dpkg"), kModules + "kernel/odd.ko",
        kFirmware + "odd.bin"})
    keep(path);
  strip();
  EXPECT_TRUE(has("/usr/share/zoneinfo/UTC") && has("/usr/share/zoneinfo/Etc/UTC"));
  EXPECT_FALSE(has("/usr/share/zoneinfo/Asia")) << "an empty directory";
  EXPECT_TRUE(has("/usr/share/man/man1/ls.1"));
  EXPECT_FALSE(has("/usr/share/man/man1/cp.1"));
  EXPECT_TRUE(has("/usr/bin/dpkg"));
  EXPECT_FALSE(has("/usr/bin/apt-get"));
  EXPECT_TRUE(has(kModules + "kernel/odd.ko") && has(kFirmware + "odd.bin"));
}

TEST_F(StripRoot, WhatIsSwitchedOffStays) {
  tree_.put("/usr/share/man/man1/ls.1", "x");
  tree_.put("/usr/share/locale/de/x.mo", "x");
  tree_.put("/usr/share/doc/x/README", "x");
  tree_.put("/usr/share/doc/x/copyright", "x");
  rules_.documentation = rules_.locales = false;
  strip();
  EXPECT_TRUE(has("/usr/share/man/man1/ls.1") && has("/usr/share/locale/de/x.mo") &&
              has("/usr/share/doc/x/README"));
  rules_.documentation = rules_.locales = true;
  auto removed = strip();
  EXPECT_FALSE(has("/usr/share/man/man1/ls.1") || has("/usr/share/locale/de/x.mo") ||
               has("/usr/share/doc/x/README"));
  EXPECT_TRUE(has("/usr/share/doc/x/copyright")) << "licences stay";
  EXPECT_TRUE(removed.contains("documentation") && removed.contains("locales"));
}

TEST_F(StripRoot, OnlyTheGivenModulesStay) {
  for (const char* file : {"kernel/fs/a.ko.xz", "kernel/fs/b.ko.xz", "kernel/c.ko", "modules.dep.bin"})
    tree_.put(kModules + file, "x");
  tree_.put("/usr/lib/modules/5.10/kernel/fs/b.ko.xz", "x");
  auto removed = strip({"kernel/fs/a.ko.xz"});
  EXPECT_TRUE(has(kModules + "kernel/fs/a.ko.xz") && has(kModules + "modules.dep.bin"));
  EXPECT_FALSE(has(kModules + "kernel/fs/b.ko.xz") || has(kModules + "kernel/c.ko"));
  EXPECT_TRUE(has("/usr/lib/modules/5.10/kernel/fs/b.ko.xz")) << "another kernel's";
  EXPECT_EQ(removed["modules"].files, 2u);
}

TEST_F(StripRoot, FirmwareStaysThatAModuleNames) {
  for (const char* file :
       {"a.bin", "b.bin.xz", "c.bin.zst", "d/x-1.fw", "d/x-22.fw", "e.bin", "target-2.bin"})
    tree_.put(kFirmware + file, "x");
  tree_.link(kFirmware + "by-link.bin", "d/../middle.bin");
  tree_.link(kFirmware + "middle.bin", "target-2.bin");
  strip({}, {"a.bin", "b.bin", "c.bin", "d/x-?.fw", "by-link.bin", "gone.bin"});
  for (const char* file :
       {"a.bin", "b.bin.xz", "c.bin.zst", "d/x-1.fw", "by-link.bin", "middle.bin", "target-2.bin"})
    EXPECT_TRUE(has(kFirmware + file)) << file;
  EXPECT_FALSE(has(kFirmware + "d/x-22.fw") || has(kFirmware + "e.bin"));
}

/// As in the root, where they lead from "/": what a link leads to stays, and no link leads out.
TEST_F(StripRoot, FirmwareLinksAreTheRootsOwn) {
  tree_.put(kFirmware + "target.bin", "x");
  tree_.put("/etc/target2.bin", "x");
  tree_.link(kFirmware + "absolute.bin", kFirmware + "target.bin");
  tree_.link(kFirmware + "up.bin", "../../../../../../../../../../usr/lib/firmware/by-up.bin");
  tree_.put(kFirmware + "by-up.bin", "x");
  tree_.link(kFirmware + "self.bin", "self.bin");
  tree_.link(kFirmware + "one.bin", "two.bin");
  tree_.link(kFirmware + "two.bin", "one.bin");
  strip({}, {"absolute.bin", "up.bin", "self.bin", "one.bin"});
  for (const char* file :
       {"absolute.bin", "target.bin", "up.bin", "by-up.bin", "self.bin", "one.bin", "two.bin"})
    EXPECT_TRUE(has(kFirmware + file)) << file;
}

TEST_F(StripRoot, LinksLeadNowhereElse) {
  base::make_directories(tree_.outside() + "/man1");
  base::write_file(tree_.outside() + "/man1/ls.1", "x");
  tree_.link("/usr/share/man", tree_.outside());
  tree_.link("/opt/link", tree_.outside());
  tree_.link("/opt/up", "../../outside");
  tree_.link(kModules + "kernel", tree_.outside());
  tree_.link("/var/cache/x", tree_.outside());
  for (const char* pattern :
       {"/opt/link/*", "/opt/link/man1/ls.1", "/opt/up/", "/opt/up/man1", "/usr/share/man"})
    drop(pattern);
  strip();
  EXPECT_TRUE(base::exists(tree_.outside() + "/man1/ls.1"));
  EXPECT_TRUE(has("/opt/link") && has("/opt/up")) << "what is below a link is not the tree's";
  EXPECT_FALSE(has("/usr/share/man") || has("/var/cache/x")) << "the link itself is";
}

TEST_F(StripRoot, AHardLinkTakesNoBytesWithIt) {
  tree_.put("/opt/a", std::string(1000, 'x'));
  std::filesystem::create_hard_link(tree_.path() + "/opt/a", tree_.path() + "/usr-a");
  drop("/opt/a");
  EXPECT_EQ(strip()["drop /opt/a"].bytes, 0u);
  EXPECT_TRUE(has("/usr-a"));
}

}  // namespace
}  // namespace image
