#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/mount.h"
#include "tests/unit/base/namespace.h"

namespace base {
namespace {

class RemoveTree : public testing::Test {
 protected:
  [[nodiscard]] std::string in(const std::string& name) const { return directory_.path() + "/" + name; }
  [[nodiscard]] std::string error_of(const std::string& path) const {
    try {
      remove_tree(path);
    } catch (const Error& e) {
      return e.message();
    }
    return "no error";
  }
  TempDir directory_ = TempDir::make("/tmp", "drover-unit-");
};

TEST_F(RemoveTree, TakesFilesDirectoriesAndOddNames) {
  make_directories(in("tree/a/b"));
  make_directories(in("tree/c"));
  write_file(in("tree/file"), "x");
  write_file(in("tree/a/b/" + std::string(255, 'n')), "x");
  make_directories(in("tree/" + std::string(255, 'd')));
  write_file(in("tree/c/line\nbreak \\ \"quotes\""), "x");
  ASSERT_EQ(::mkfifo(in("tree/c/fifo").c_str(), 0600), 0);
  remove_tree(in("tree"));
  EXPECT_FALSE(exists(in("tree")));
  EXPECT_TRUE(exists(directory_.path()));
}

TEST_F(RemoveTree, AMissingPathAndAFileAndATrailingSlash) {
  remove_tree(in("none"));
  write_file(in("file"), "x");
  remove_tree(in("file"));
  EXPECT_FALSE(exists(in("file")));
  make_directories(in("tree/a"));
  remove_tree(in("tree/"));
  EXPECT_FALSE(exists(in("tree")));
}

TEST_F(RemoveTree, RefusesWhatIsNoName) {
  for (const std::string& path : {std::string("/"), std::string(""), in(".."), in("."), std::string("..")})
    EXPECT_TRUE(error_of(path).starts_with("refusing to remove")) << path;
  EXPECT_TRUE(exists(directory_.path()));
}

TEST_F(RemoveTree, DoesNotFollowSymlinks) {
  make_directories(in("tree"));
  make_directories(in("outside/kept"));
  ASSERT_EQ(::symlink(in("outside").c_str(), in("tree/link").c_str()), 0);
  ASSERT_EQ(::symlink(in("outside").c_str(), in("link").c_str()), 0);
  remove_tree(in("tree"));
  remove_tree(in("link"));
  EXPECT_FALSE(exists(in("tree")));
  EXPECT_FALSE(exists(in("link")));
  EXPECT_TRUE(exists(in("outside/kept")));
}

TEST_F(RemoveTree, TheWayToATreeMayLeadOverASymlink) {
  make_directories(in("real/tree/a"));
  ASSERT_EQ(::symlink(in("real").c_str(), in("link").c_str()), 0);
  remove_tree(in("link/tree"));
  EXPECT_FALSE(exists(in("real/tree")));
  EXPECT_TRUE(exists(in("link")));
}

TEST_F(RemoveTree, TreesDeeperThanAnyPathOrDescriptorTable) {
  constexpr int kDepth = 5000;  // 10 bytes each: twelve times PATH_MAX
  make_directories(in("tree"));
  Fd here = open(in("tree"), O_RDONLY | O_DIRECTORY);
  for (int i = 0; i < kDepth; ++i) {
    ASSERT_EQ(::mkdirat(here.get(), "directory", 0700), 0);
    here = open_at(here.get(), "directory", O_RDONLY | O_DIRECTORY);
  }
  remove_tree(in("tree"));
  EXPECT_FALSE(exists(in("tree")));
}

TEST_F(RemoveTree, DoesNotCrossIntoAMount) {
  enter_mount_namespace();
  make_directories(in("tree/a/mnt"));
  Mount tmpfs = Mount::make("tmpfs", in("tree/a/mnt"), "tmpfs", 0);
  write_file(in("tree/a/mnt/file"), "kept");
  EXPECT_EQ(error_of(in("tree")), "cannot remove " + in("tree/a/mnt") + ": something is mounted there");
  EXPECT_EQ(error_of(in("tree/a/mnt")), "cannot remove " + in("tree/a/mnt") + ": something is mounted there");
  EXPECT_EQ(read_file(in("tree/a/mnt/file")), "kept");
  tmpfs.unmount();
  remove_tree(in("tree"));
  EXPECT_FALSE(exists(in("tree")));
}

TEST_F(RemoveTree, DoesNotCrossIntoABindMountOfTheSameFileSystem) {
  enter_mount_namespace();
  make_directories(in("outside"));
  write_file(in("outside/file"), "kept");
  make_directories(in("tree/mnt"));
  Mount bind = Mount::bind(in("outside"), in("tree/mnt"));
  EXPECT_EQ(error_of(in("tree")), "cannot remove " + in("tree/mnt") + ": something is mounted there");
  EXPECT_EQ(read_file(in("outside/file")), "kept");
}

TEST_F(RemoveTree, NamesAnImmutableFile) {
  make_directories(in("tree/a"));
  write_file(in("tree/a/fixed"), "x");
  Fd file = open(in("tree/a/fixed"), O_RDONLY);
  int flags = FS_IMMUTABLE_FL;
  if (::ioctl(file.get(), FS_IOC_SETFLAGS, &flags) != 0)
    GTEST_SKIP() << "an immutable file needs CAP_LINUX_IMMUTABLE and a file system that has them";
  EXPECT_EQ(error_of(in("tree")), "cannot remove " + in("tree/a/fixed") + ": Operation not permitted");
  flags = 0;
  ASSERT_EQ(::ioctl(file.get(), FS_IOC_SETFLAGS, &flags), 0);
}

}  // namespace
}  // namespace base
