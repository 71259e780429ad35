#include "base/mount.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <unistd.h>

#include <future>
#include <string>
#include <tuple>
#include <vector>

#include "base/error.h"
#include "base/hash.h"
#include "tests/unit/base/namespace.h"

namespace base {
namespace {

class MountTest : public testing::Test {
 protected:
  void SetUp() override {
    enter_mount_namespace();
    directory_.emplace(TempDir::make("/tmp", "drover unit\t\\"));  // mountinfo escapes these
  }
  std::string make(const std::string& name) {
    make_directories(in(name));
    return in(name);
  }
  [[nodiscard]] std::string in(const std::string& name) const { return directory_->path() + "/" + name; }
  std::optional<TempDir> directory_;
};

TEST_F(MountTest, LivesAsLongAsItsObject) {
  std::string target = make("mnt");
  EXPECT_FALSE(is_mount_point(target));
  {
    Mount mount = Mount::make("tmpfs", target, "tmpfs", MS_NOSUID, "size=1m");
    EXPECT_TRUE(is_mount_point(target));
    EXPECT_TRUE(is_mount_point(target + "/"));
    EXPECT_FALSE(is_mount_point(directory_->path()));
  }
  EXPECT_FALSE(is_mount_point(target));
}

TEST_F(MountTest, StaysWhenReleased) {
  std::string target = make("mnt");
  Mount::make("tmpfs", target, "tmpfs", 0).release();
  EXPECT_TRUE(is_mount_point(target));
  unmount_if_mounted(target);
  EXPECT_FALSE(is_mount_point(target));
  unmount_if_mounted(target);
  unmount_if_mounted(in("none"));
}

TEST_F(MountTest, UnmountThrowsWhenItIsBusy) {
  Mount mount = Mount::make("tmpfs", make("mnt"), "tmpfs", 0);
  Fd user = open(in("mnt"), O_RDONLY);
  try {
    mount.unmount();
    FAIL() << "it was not busy";
  } catch (const Error& e) {
    EXPECT_EQ(e.message(), "cannot unmount " + in("mnt") + ": Device or resource busy");
  }
  user.close();
  mount.unmount();
  EXPECT_FALSE(is_mount_point(in("mnt")));
}

TEST_F(MountTest, AnErrorNamesBothEnds) {
  try {
    std::ignore = Mount::make("/nowhere", make("mnt"), "ext4", 0);
    FAIL() << "it was mounted";
  } catch (const Error& e) {
    EXPECT_TRUE(e.message().starts_with("cannot mount /nowhere on " + in("mnt") + " as ext4: "))
        << e.message();
  }
}

TEST_F(MountTest, FindsMountsThroughSymlinks) {
  Mount mount = Mount::make("tmpfs", make("real/mnt"), "tmpfs", 0);
  ASSERT_EQ(::symlink(in("real").c_str(), in("link").c_str()), 0);
  EXPECT_TRUE(is_mount_point(in("link/mnt")));
}

TEST_F(MountTest, MountsBelowAreDeepestFirst) {
  std::string top = make("top");
  Mount a = Mount::make("tmpfs", top, "tmpfs", 0);
  Mount b = Mount::make("tmpfs", make("top/a"), "tmpfs", 0);
  Mount c = Mount::make("tmpfs", make("top/a/b"), "tmpfs", 0);
  Mount d = Mount::make("tmpfs", make("top2"), "tmpfs", 0);
  EXPECT_EQ(mounts_below(top), (std::vector<std::string>{in("top/a/b"), in("top/a"), top}));
}

TEST_F(MountTest, AProcessThatHasEndedSeesNone) {
  EXPECT_GT(mounts_of(::getpid())->size(), 1U);
  const pid_t child = ::fork();
  if (child == 0) ::_exit(0);
  siginfo_t info{};
  ASSERT_EQ(::waitid(P_PID, static_cast<id_t>(child), &info, WEXITED | WNOWAIT), 0);
  EXPECT_FALSE(mounts_of(child)) << "a zombie";
  ASSERT_EQ(::waitpid(child, nullptr, 0), child);
  EXPECT_FALSE(mounts_of(child));
}

TEST_F(MountTest, ABindShowsTheSameFiles) {
  write_file(make("from") + "/file", "x");
  Mount bind = Mount::bind(in("from"), make("to"));
  EXPECT_EQ(read_file(in("to/file")), "x");
}

TEST_F(MountTest, ATempDirGoesWithItsMounts) {
  std::string path;
  {
    TempDir directory = TempDir::make(directory_->path(), "t-");
    path = directory.path();
    make_directories(path + "/a");
    Mount::make("tmpfs", path + "/a", "tmpfs", 0).release();
    make_directories(path + "/a/b");
    Mount::make("tmpfs", path + "/a/b", "tmpfs", 0).release();
  }
  EXPECT_FALSE(exists(path));
  EXPECT_EQ(mounts_below(path), std::vector<std::string>());
}

class LoopTest : public testing::Test {
 protected:
  void SetUp() override {
    if (::access("/dev/loop-control", R_OK | W_OK) != 0) GTEST_SKIP() << "loop devices need root";
    write_file(file_, std::string(1 << 20, 'x'));
  }
  std::string state(const LoopDevice& loop, const std::string& name) {
    return read_file("/sys/block/" + loop.path().substr(5) + "/loop/" + name);
  }
  TempDir directory_ =
      TempDir::make("/var/tmp", "drover-unit-");  // on a disk: not every tmpfs has direct I/O
  std::string file_ = directory_.path() + "/image";
};

TEST_F(LoopTest, ShowsTheFileWithDirectIo) {
  LoopDevice loop = LoopDevice::attach(file_, true);
  EXPECT_EQ(sha256_file_hex(loop.path()), sha256_file_hex(file_));
  EXPECT_EQ(state(loop, "dio"), "1\n");
  EXPECT_THROW(write_file(loop.path(), "x"), Error);
}

TEST_F(LoopTest, WritesReachTheFile) {
  LoopDevice loop = LoopDevice::attach(file_, false);
  Fd device = open(loop.path(), O_WRONLY);
  write_full(device.get(), "changed", loop.path());
  fsync_path(loop.path());
  EXPECT_TRUE(read_file(file_).starts_with("changedxxx"));
}

TEST_F(LoopTest, ManyAtOnceGetOneEach) {
  LoopDevice a = LoopDevice::attach(file_, true);
  LoopDevice b = LoopDevice::attach(file_, true);
  EXPECT_NE(a.path(), b.path());
}

TEST_F(LoopTest, IsDetachedWithItsObject) {
  std::string backing;
  {
    LoopDevice loop = LoopDevice::attach(file_, true);
    backing = "/sys/block/" + loop.path().substr(5) + "/loop/backing_file";
    EXPECT_EQ(read_file(backing), file_ + "\n");
  }
  EXPECT_NE(read_file_if_exists(backing).value_or(""), file_ + "\n");
}

TEST_F(LoopTest, SeveralWantOneAtATime) {
  std::vector<std::future<std::string>> all;
  for (int i = 0; i < 4; ++i)
    all.push_back(std::async(std::launch::async, [&]() -> std::string {
      try {
        for (int round = 0; round < 100; ++round) std::ignore = LoopDevice::attach(file_, true);
      } catch (const Error& e) {
        return e.message();
      }
      return "";
    }));
  for (auto& each : all) EXPECT_EQ(each.get(), "");
}

TEST_F(LoopTest, AMissingFileIsNamed) {
  try {
    std::ignore = LoopDevice::attach("/nowhere/image", true);
    FAIL() << "it was attached";
  } catch (const Error& e) {
    EXPECT_EQ(e.message(), "cannot open /nowhere/image: No such file or directory");
  }
}

}  // namespace
}  // namespace base
