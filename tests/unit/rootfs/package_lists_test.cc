#include "rootfs/package_lists.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <set>

#include "base/fd.h"
#include "base/mount.h"

namespace rootfs {
namespace {

constexpr const char* kMain = "mirror.example_debian_dists_trixie_main_binary-amd64_Packages";
constexpr const char* kSid = "mirror.example_debian_dists_sid_main_binary-amd64_Packages";
constexpr const char* kSigned = "mirror.example_debian_dists_trixie_InRelease";

std::string entry(const std::string& name, const std::string& version, const std::string& more = "") {
  return "Package: " + name + "\nVersion: " + version + "\n" + more +
         "Description: its Package: is not a field\n\n";
}

class PackageLists : public testing::Test {
 protected:
  void SetUp() override { base::make_directories(from()); }

  void put(const std::string& file, const std::string& text) const {
    base::write_file(from() + "/" + file, text);
  }
  void narrow(const std::vector<std::string>& wanted, const Suites& suites = {}) const {
    narrow_lists(from(), to(), suites, wanted);
  }
  /// What is left of a list.
  [[nodiscard]] std::set<std::string> left(const std::string& file) const {
    std::set<std::string> names;
    std::string text = base::read_file(to() + "/" + file);
    for (size_t at = text.find("Package: "); at != std::string::npos; at = text.find("\nPackage: ", at)) {
      at += text[at] == '\n' ? 1 : 0;
      names.insert(text.substr(at + 9, text.find('\n', at) - at - 9));
    }
    return names;
  }
  [[nodiscard]] std::string from() const { return directory_.path() + "/lists"; }
  [[nodiscard]] std::string to() const { return directory_.path() + "/narrowed"; }

  base::TempDir directory_ = base::TempDir::make("/tmp", "package-lists-");
};

using Names = std::set<std::string>;

TEST_F(PackageLists, HaveWhatIsWantedAndWhatItDependsOn) {
  put(kMain,
      entry("redis", "7", "Depends: libc6 (>= 2.4), lua:any | luajit,\n libssl\nRecommends: logrotate\n") +
          entry("libc6", "2", "Pre-Depends: gcc-base\n") + entry("lua", "5") + entry("luajit", "2") +
          entry("libssl", "3") + entry("gcc-base", "14") + entry("logrotate", "3") + entry("nginx", "1"));
  narrow({"redis"});
  // A field that goes on in a second line is not one of Debian's lists: what stands there is not followed.
  EXPECT_EQ(left(kMain), (Names{"redis", "libc6", "lua", "luajit", "gcc-base"}));
  narrow({"nginx=1", "lua (>= 5)"});
  EXPECT_EQ(left(kMain), (Names{"nginx", "lua"}));
}

TEST_F(PackageLists, HaveWhoeverProvidesIt) {
  put(kMain, entry("mailer", "1", "Depends: mta\n") + entry("exim", "4", "Provides: mta (= 4), smtp\n") +
                 entry("postfix", "3", "Provides: mta\n") + entry("webmail", "1", "Depends: smtp\n"));
  narrow({"mailer"});
  EXPECT_EQ(left(kMain), (Names{"mailer", "exim", "postfix"}));
}

TEST_F(PackageLists, HaveWhatIsInEverySystem) {
  put(kMain, entry("bash", "5", "Essential: yes\nDepends: base-files\n") + entry("base-files", "13") +
                 entry("mount", "2", "Priority: required\n") + entry("nano", "8", "Priority: important\n") +
                 entry("init", "1", "Protected: yes\n") + entry("less", "6", "Priority: optional\n"));
  narrow({"?essential"});
  EXPECT_EQ(left(kMain), (Names{"bash", "base-files", "mount", "nano", "init"}));
}

TEST_F(PackageLists, ACircleEnds) {
  put(kMain, entry("a", "1", "Depends: b\n") + entry("b", "1", "Depends: a\n"));
  narrow({"a"});
  EXPECT_EQ(left(kMain), (Names{"a", "b"}));
}

TEST_F(PackageLists, OfSomeSuitesOnlyWhatTheyGive) {
  put(kMain, entry("criu", "3") + entry("libc6", "2.41"));
  put(kSid, entry("criu", "4", "Depends: libc6, libnet9\n") + entry("libc6", "2.42") + entry("libnet9", "1"));
  narrow({"criu"}, {{"sid", {"criu"}}});
  EXPECT_EQ(left(kMain), (Names{"criu", "libc6"}));
  EXPECT_EQ(left(kSid), (Names{"criu", "libnet9"}));
  narrow({"criu"});
  EXPECT_EQ(left(kSid), (Names{"criu", "libc6", "libnet9"}));
}

TEST_F(PackageLists, EntriesAndTimesStayAsTheyAre) {
  std::string redis = entry("redis", "7", "Filename: pool/r.deb\nSHA256: 00\n");
  put(kMain, redis + entry("nginx", "1"));
  put(kSigned, "signed");
  auto time = std::filesystem::last_write_time(from() + "/" + kMain) - std::chrono::hours(5);
  std::filesystem::last_write_time(from() + "/" + kMain, time);
  narrow({"redis"});
  EXPECT_EQ(base::read_file(to() + "/" + kMain), redis);
  EXPECT_EQ(std::filesystem::last_write_time(to() + "/" + kMain), time);
  EXPECT_EQ(base::read_file(to() + "/" + kSigned), "signed");
}

TEST_F(PackageLists, AnotherTimeTheyAreMadeAnew) {
  put(kMain, entry("a", "1") + entry("b", "1"));
  narrow({"a"});
  narrow({"b"});
  EXPECT_EQ(left(kMain), Names{"b"});
}

TEST_F(PackageLists, OfTheseVersionsOnly) {
  put(kMain, entry("a", "1") + entry("b", "1"));
  put(kSid, entry("a", "2") + entry("b", "2"));
  copy_entries(from(), to(),
               {{.name = "a", .version = "1", .architecture = "amd64"},
                {.name = "b", .version = "2", .architecture = "all"}});
  EXPECT_EQ(left(kMain), Names{"a"});
  EXPECT_EQ(left(kSid), Names{"b"});
}

TEST_F(PackageLists, TellsWhichNoListHas) {
  put(kMain, entry("a", "2") + entry("b", "1"));
  Package gone = {.name = "a", .version = "1", .architecture = "amd64"};
  EXPECT_EQ(copy_entries(from(), to(), {gone, {.name = "b", .version = "1", .architecture = "all"}}),
            std::vector<Package>{gone});
}

TEST_F(PackageLists, WhatIsNoListIsNoProblem) {
  put(kMain, "\n\nPackage: \n\nno colon\nPackage: a\nVersion: 1");
  put(kSid, "");
  narrow({"a", "", ",|,"});
  EXPECT_EQ(base::read_file(to() + "/" + kSid), "");
}

}  // namespace
}  // namespace rootfs
