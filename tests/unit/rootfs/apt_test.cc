#include "rootfs/apt.h"

#include <gtest/gtest.h>

#include "base/fd.h"
#include "base/mount.h"
#include "tests/unit/base/samples.h"

namespace rootfs {
namespace {

using base::FakeRunner;
using base::TestContext;
using base::thrown;

constexpr const char* kHostSources =
    "'http://mirror.example/debian/dists/trixie/InRelease' mirror.example_debian_dists_trixie_InRelease 0 \n"
    "'http://mirror.example/debian/dists/trixie-updates/InRelease' x 0 \n"
    "'http://security.example/debian-security/dists/trixie-security/InRelease' x 0 \n"
    "'http://tools.example/dists/stable/InRelease' x 0 \n"
    "'http://mirror.example/debian/dists/trixie/main/binary-amd64/Packages.xz' x 0 \n";

bool has(const std::vector<std::string>& argv, const std::string& word) {
  return std::ranges::find(argv, word) != argv.end();
}

class AptTest : public testing::Test {
 protected:
  Apt make(const std::string& suite = "trixie") {
    origin_.suite = suite;
    return {context_, origin_, cache_.path()};
  }

  base::Result answer(const base::Command& command) {
    if (has(command.argv, "--print-uris")) return {.status = 0, .out = host_sources_, .err = ""};
    if (command.argv[0] == "apt-cache") return {.status = 0, .out = "redis-server\nnginx\n", .err = ""};
    return apt_;
  }

  std::string host_sources_ = kHostSources;
  base::Result apt_;
  Origin origin_ = {.name = "x", .suite = ""};
  base::TempDir cache_ = base::TempDir::make("/tmp", "apt-");
  FakeRunner runner_ = FakeRunner([this](const base::Command& command) { return answer(command); });
  TestContext test_;
  base::Context context_{.runner = runner_, .progress = *test_.progress, .clock = test_.clock};
};

const Package kChrony = {.name = "chrony", .version = "4.6-3", .architecture = "amd64"};
const std::string kKeys = "[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]";

TEST_F(AptTest, TakesTheHostsSourcesOfTheSuite) {
  EXPECT_EQ(make().sources(),
            (std::vector<std::string>{
                "deb " + kKeys + " http://mirror.example/debian/ trixie main",
                "deb " + kKeys + " http://mirror.example/debian/ trixie-updates main",
                "deb " + kKeys + " http://security.example/debian-security/ trixie-security main"}));
}

TEST_F(AptTest, AHostOfAnotherReleaseHasAMirrorTo) {
  EXPECT_EQ(make("forky").sources(),
            std::vector<std::string>{"deb " + kKeys + " http://mirror.example/debian/ forky main"});
}

TEST_F(AptTest, WithoutAMirrorItSaysWhereToNameOne) {
  host_sources_ = "'http://tools.example/dists/stable/InRelease' x 0 \n";
  std::string error = thrown([&] { make(); });
  EXPECT_TRUE(error.contains("apt sources name no mirror of Debian trixie")) << error;
  EXPECT_TRUE(error.contains("[mirror] url")) << error;
}

TEST_F(AptTest, TheDefinitionsMirrorComesFirst) {
  origin_.mirror = {
      .url = "https://own.example/debian", .keyring = "/etc/hosts", .components = {"main", "contrib"}};
  EXPECT_EQ(
      make().sources(),
      std::vector<std::string>{"deb [signed-by=/etc/hosts] https://own.example/debian trixie main contrib"});
  origin_.mirror.keyring = "/nonexistent.gpg";
  EXPECT_TRUE(thrown([&] { make(); }).contains("no file /nonexistent.gpg"));
}

TEST_F(AptTest, ReadsWhatWouldBeInstalled) {
  apt_.out =
      "Reading package lists...\n"
      "Inst libc6 [2.41-11] (2.41-12+deb13u4 Debian:13.7/stable [amd64])\n"
      "Inst gcc-14-base (14.2.0-19 Debian:13.7/stable [amd64]) []\n"
      "Inst adduser (3.152 Debian:13.7/stable, Debian-Security:13/stable-security [all])\n"
      "Conf libc6 (2.41-12+deb13u4 Debian:13.7/stable [amd64])\n";
  EXPECT_EQ(make().resolve({{.text = "adduser", .place = "x.toml:1"}}, ""),
            (std::vector<Package>{{.name = "adduser", .version = "3.152", .architecture = "all"},
                                  {.name = "gcc-14-base", .version = "14.2.0-19", .architecture = "amd64"},
                                  {.name = "libc6", .version = "2.41-12+deb13u4", .architecture = "amd64"}}));
}

TEST_F(AptTest, AnUnknownPackageIsShownInTheDefinition) {
  apt_ = {.status = 100, .out = "", .err = "E: Unable to locate package redis-sever\n"};
  std::string error = thrown([&] {
    (void)make().resolve(
        {{.text = "nginx", .place = "x.toml:4"}, {.text = "redis-sever", .place = "x.toml:5"}}, "");
  });
  EXPECT_EQ(error,
            "error: x.toml:5: packages: Debian trixie has no package redis-sever\nhint: did you mean "
            "redis-server?\n");
}

TEST_F(AptTest, AnUnknownVersionIsShownInTheDefinition) {
  apt_ = {.status = 100, .out = "", .err = "E: Version '9.9' for 'nginx' was not found\n"};
  std::string error = thrown([&] { (void)make().resolve({{.text = "nginx=9.9", .place = "x.toml:4"}}, ""); });
  EXPECT_EQ(error, "error: x.toml:4: packages: Version '9.9' for 'nginx' was not found\n");
}

TEST_F(AptTest, PackagesThatDoNotFitAreExplained) {
  apt_ = {
      .status = 100,
      .out = "The following packages have unmet dependencies:\n sysvinit-core : Conflicts: systemd-sysv\n",
      .err = "E: Unable to correct problems, you have held broken packages.\n"};
  std::string error =
      thrown([&] { (void)make().resolve({{.text = "sysvinit-core", .place = "x.toml:4"}}, ""); });
  EXPECT_EQ(error, "error: x.toml:4: packages: sysvinit-core : Conflicts: systemd-sysv\n");
}

TEST_F(AptTest, TakingPackagesOfTheBaseAwayIsRefused) {
  apt_.out = "Remv rsyslog [8.2504.0-1]\nInst syslog-ng (4.8 Debian:13/stable [amd64])\n";
  EXPECT_TRUE(thrown([&] {
                (void)make().resolve({{.text = "syslog-ng", .place = "x.toml:4"}}, "");
              }).contains("would remove rsyslog of its base"));
}

TEST_F(AptTest, AMirrorThatDoesNotAnswerIsReportedInAptsWords) {
  apt_ = {.status = 100, .out = "", .err = "W: x\nE: Failed to fetch http://m/: Could not resolve 'm'\n"};
  std::string error = thrown([&] { make().update(); });
  EXPECT_TRUE(error.contains("cannot be fetched: Failed to fetch http://m/: Could not resolve 'm'\n"))
      << error;
  EXPECT_TRUE(error.contains("--offline")) << error;
}

TEST_F(AptTest, OfflineNeedsListsAndPackagesThatWereFetchedBefore) {
  origin_.offline = true;
  EXPECT_TRUE(
      thrown([&] { make().update(); }).contains("there are no package lists of Debian trixie here yet"));
  std::string error = thrown([&] { make().download({kChrony}, ""); });
  EXPECT_TRUE(error.contains("not all in the cache: chrony 4.6-3 is not")) << error;
  EXPECT_TRUE(error.contains("without --offline")) << error;
  base::write_file(cache_.path() + "/packages/chrony_4.6-3_amd64.deb", "");
  EXPECT_EQ(thrown([&] { make().download({kChrony}, ""); }), "");
}

TEST_F(AptTest, AVersionThatTheMirrorHasNoMoreIsOneForUpdateLock) {
  apt_ = {.status = 100, .out = "", .err = "E: Version '4.6-3' for 'chrony' was not found\n"};
  std::string error = thrown([&] { make().download({kChrony}, ""); });
  EXPECT_TRUE(error.contains("cannot be fetched: Version '4.6-3' for 'chrony' was not found")) << error;
  EXPECT_TRUE(error.contains("--update-lock")) << error;
}

TEST_F(AptTest, PackagesAreAsOldAsTheirFiles) {
  Apt apt = make();
  auto put = [&](const std::string& file, const std::string& time) {
    base::write_file(cache_.path() + "/packages/" + file,
                     "!<arch>\ndebian-binary   " + time + "  0     0     100644  4         `\n");
  };
  put("a_1%3a2_amd64.deb", "1700000000");
  put("b_1_all.deb", "1750000000");
  EXPECT_EQ(apt.youngest({{.name = "a", .version = "1:2", .architecture = "amd64"},
                          {.name = "b", .version = "1", .architecture = "all"}}),
            1'750'000'000);
  base::write_file(cache_.path() + "/packages/b_1_all.deb", "<html>404");
  EXPECT_TRUE(thrown([&] {
                (void)apt.youngest({{.name = "b", .version = "1", .architecture = "all"}});
              }).contains("is not a Debian package"));
}

TEST(DpkgStatus, NamesWhatIsInstalled) {
  base::TempDir directory = base::TempDir::make("/tmp", "status-");
  base::write_file(directory.path() + "/status",
                   "Package: zlib1g\nStatus: install ok installed\nArchitecture: amd64\nSource: zlib "
                   "(1:1.2)\nVersion: 1:1.3\n\n"
                   "Package: gone\nStatus: deinstall ok config-files\nArchitecture: amd64\nVersion: 1\n\n"
                   "Package: apt\nStatus: install ok installed\nArchitecture: amd64\nVersion: 3.0.3\n");
  EXPECT_EQ(installed_packages(directory.path() + "/status"),
            (std::vector<Package>{
                {.name = "apt", .version = "3.0.3", .architecture = "amd64", .source = "apt"},
                {.name = "zlib1g", .version = "1:1.3", .architecture = "amd64", .source = "zlib"}}));
  EXPECT_TRUE(installed_packages(directory.path() + "/none").empty());
}

}  // namespace
}  // namespace rootfs
