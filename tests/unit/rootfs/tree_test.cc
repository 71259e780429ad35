#include "rootfs/tree.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <atomic>
#include <filesystem>
#include <thread>

#include "base/mount.h"
#include "rootfs/erofs.h"
#include "rootfs/strip.h"
#include "tests/unit/base/samples.h"

namespace rootfs {
namespace {

namespace fs = std::filesystem;
using base::TestContext;
using base::thrown;

class TreeTest : public testing::Test {
 protected:
  void put(const std::string& path, const std::string& text = "") {
    base::make_directories(fs::path(root() + path).parent_path());
    base::write_file(root() + path, text);
  }
  [[nodiscard]] bool there(const std::string& path) const { return base::exists(root() + path); }
  [[nodiscard]] std::string root() const { return directory_.path() + "/root"; }

  std::string place(const File& file) {
    return thrown([&] { Tree(root()).place(file); });
  }

  base::TempDir directory_ = base::TempDir::make("/tmp", "tree-");
  bool made_ = fs::create_directory(root());
};

/// The kernel answers EAGAIN then, for a path with "..", as in every root's /lib64/ld-linux-x86-64.so.2.
TEST_F(TreeTest, FindsWhatIsThereWhileOthersRename) {
  put("/usr/lib/x86_64-linux-gnu/ld.so");
  base::make_directories(root() + "/usr/lib64");
  fs::create_symlink("../lib/x86_64-linux-gnu/ld.so", root() + "/usr/lib64/ld.so");
  fs::create_symlink("usr/lib64", root() + "/lib64");
  std::string elsewhere = directory_.path() + "/a", other = directory_.path() + "/b";
  fs::create_directory(elsewhere);
  std::atomic<bool> ended = false;
  std::thread renaming([&] {
    while (!ended) {
      fs::rename(elsewhere, other);
      fs::rename(other, elsewhere);
    }
  });
  Tree tree(root());
  unsigned missed = 0;
  for (unsigned i = 0; i < 50'000; ++i) missed += tree.has("/lib64/ld.so") ? 0 : 1;
  ended = true;
  renaming.join();
  EXPECT_EQ(missed, 0U);
}

TEST_F(TreeTest, SymlinksInATreeDoNotLeadOutOfIt) {
  std::string outside = directory_.path() + "/outside";
  fs::create_directory(outside);
  fs::create_directory_symlink(outside, root() + "/absolute");
  fs::create_directory_symlink("../outside", root() + "/relative");
  put("/somewhere/x");
  fs::create_directory_symlink("/somewhere", root() + "/good");
  EXPECT_EQ(place({.path = "/good/file", .content = "text"}), "");
  EXPECT_EQ(base::read_file(root() + "/somewhere/file"), "text");
  EXPECT_NE(place({.path = "/absolute/file", .content = "text"}), "");
  EXPECT_NE(place({.path = "/relative/file", .content = "text"}), "");
  EXPECT_TRUE(fs::is_empty(outside));
}

TEST_F(TreeTest, APlacedFileReplacesALinkInsteadOfWritingThroughIt) {
  put("/etc/target", "old");
  fs::create_symlink("target", root() + "/etc/link");
  EXPECT_EQ(place({.path = "/etc/link", .content = "new", .mode = 0755}), "");
  EXPECT_EQ(base::read_file(root() + "/etc/target"), "old");
  EXPECT_EQ(base::read_file(root() + "/etc/link"), "new");
  EXPECT_EQ(fs::status(root() + "/etc/link").permissions(), fs::perms(0755));
}

TEST_F(TreeTest, PlacesLinksAndDirectories) {
  using Kind = File::Kind;
  EXPECT_EQ(place({.path = "/a/b", .kind = Kind::kDirectory, .mode = 01777}), "");
  EXPECT_EQ(place({.path = "/a/c", .kind = Kind::kSymlink, .content = "b"}), "");
  EXPECT_EQ(fs::status(root() + "/a/b").permissions(), fs::perms(01777));
  EXPECT_EQ(fs::read_symlink(root() + "/a/c"), "b");
}

TEST_F(TreeTest, AnOwnerMustBeKnownInTheTree) {
  put("/etc/passwd", "root:x:0:0::/root:/bin/sh\n");
  std::string error = place({.path = "/x", .owner = "redis", .place = "x.toml:7"});
  EXPECT_TRUE(error.contains("x.toml:7: file /x: the tree has no redis in /etc/passwd")) << error;
}

TEST_F(TreeTest, PatternsMatchPathsAndNeverFollowLinks) {
  std::string outside = directory_.path() + "/outside";
  fs::create_directory(outside);
  base::write_file(outside + "/precious", "");
  for (const char* path : {"/usr/a.pyc", "/usr/lib/b.pyc", "/var/log/x", "/var/log/deep/y", "/opt/all/of/it"})
    put(path);
  fs::create_directory_symlink(outside, root() + "/var/run");
  remove_matching(root(), {"/usr/*.pyc", "/var/log/", "/var/run/*", "/opt/all", "/nothing/*"});
  EXPECT_FALSE(there("/usr/a.pyc"));
  EXPECT_TRUE(there("/usr/lib/b.pyc")) << "* does not match a slash";
  EXPECT_TRUE(there("/var/log/deep")) << "directories below a/ stay";
  EXPECT_FALSE(there("/var/log/x") || there("/var/log/deep/y"));
  EXPECT_FALSE(there("/opt/all"));
  EXPECT_TRUE(base::exists(outside + "/precious"));
}

TEST_F(TreeTest, StripTakesWhatIsNamedAndWhatIsNeverShared) {
  const char* always[] = {"/etc/machine-id",
                          "/etc/ssh/ssh_host_rsa_key",
                          "/var/lib/apt/lists/m_Packages",
                          "/var/log/dpkg.log",
                          "/tmp/x",
                          "/etc/ssl/private/ssl-cert-snakeoil.key",
                          "/etc/shadow-",
                          "/var/cache/apt/pkgcache.bin",
                          "/var/lib/dpkg/status-old",
                          "/root/.bash_history"};
  const char* documentation[] = {"/usr/share/man/man1/ls.1.gz", "/usr/share/doc/bash/README"};
  const char* kept[] = {"/etc/ssh/sshd_config", "/var/lib/dpkg/status", "/usr/share/doc/bash/copyright",
                        "/etc/shadow"};
  for (const char* path : always) put(path);
  for (const char* path : documentation) put(path);
  for (const char* path : kept) put(path);
  put("/usr/share/locale/de/LC_MESSAGES/x.mo");
  put("/usr/share/doc/empty/README");
  strip_tree(root(), {.documentation = true, .locales = false, .caches = true, .paths = {"/etc/shado?"}});
  for (const char* path : always) EXPECT_FALSE(there(path)) << path;
  for (const char* path : documentation) EXPECT_FALSE(there(path)) << path;
  EXPECT_TRUE(there("/usr/share/doc/bash/copyright")) << "licences stay";
  EXPECT_TRUE(there("/usr/share/locale/de/LC_MESSAGES/x.mo"));
  EXPECT_FALSE(there("/usr/share/doc/empty"));
  EXPECT_FALSE(there("/etc/shadow")) << "named";
  EXPECT_TRUE(there("/tmp") && there("/var/log"));
}

TEST_F(TreeTest, TimesAreNotLaterThanTheClock) {
  put("/new");
  put("/old");
  const timespec old[2] = {{.tv_sec = 1000, .tv_nsec = 0}, {.tv_sec = 1000, .tv_nsec = 0}};
  ASSERT_EQ(::utimensat(AT_FDCWD, (root() + "/old").c_str(), old, 0), 0);
  fs::create_symlink("nowhere", root() + "/link");
  EXPECT_EQ(settle(root(), 5000).bytes, 0u);
  for (const auto& [path, time] : {std::pair{"/new", 5000}, {"/old", 1000}, {"/link", 5000}, {"", 5000}}) {
    struct stat status;
    ASSERT_EQ(::lstat((root() + path).c_str(), &status), 0);
    EXPECT_EQ(status.st_mtim.tv_sec, time) << path;
    EXPECT_EQ(status.st_mtim.tv_nsec, 0) << path;
  }
}

TEST_F(TreeTest, HardLinksAreCountedOnce) {
  put("/a", std::string(1000, 'x'));
  fs::create_hard_link(root() + "/a", root() + "/b");
  EXPECT_EQ(settle(root(), 5000).bytes, 1000u);
}

TEST(DpkgExcludes, KeepLicences) {
  auto options = dpkg_excludes({});
  auto exclude = std::ranges::find(options, "path-exclude=/usr/share/doc/*");
  auto include = std::ranges::find(options, "path-include=/usr/share/doc/*/copyright*");
  ASSERT_TRUE(exclude != options.end() && include != options.end());
  EXPECT_LT(exclude, include) << "dpkg obeys the last that matches";
  EXPECT_TRUE(dpkg_excludes({.documentation = false, .locales = false}).empty());
}

}  // namespace
}  // namespace rootfs
