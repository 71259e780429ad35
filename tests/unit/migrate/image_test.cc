#include <chrono>
#include <random>
#include <thread>

#include "base/child.h"
#include "base/context.h"
#include "base/progress.h"
#include "box/volume.h"
#include "tests/unit/base/namespace.h"
#include "tests/unit/migrate/tree_tools.h"

namespace migrate {
namespace {

constexpr uint64_t kMiB = 1 << 20;

/// An image in from(), and where it is mounted. It is sent to to(), and mounted there.
class ImageTest : public TreeTest {
 protected:
  void SetUp() override {
    TreeTest::SetUp();
    if (IsSkipped()) return;
    if (::access("/dev/loop-control", R_OK | W_OK) != 0) GTEST_SKIP() << "loop devices need root";
    base::enter_mount_namespace();
    config_.name = "web1";
    config_.image_bytes = 256 * kMiB;
    here_ = place("here", from());
    there_ = place("there", to());
    box::make_image(context_, config_, here_);
    box::mount_image(config_, here_);
  }
  void TearDown() override {
    for (const auto& paths : {here_, there_}) base::unmount_if_mounted(paths.priv);
  }
  box::Paths place(const std::string& name, const std::string& volume) {
    box::Paths paths;
    paths.priv = directory_.path() + "/" + name;
    paths.upper = paths.priv + "/upper";
    paths.volume = volume.substr(0, volume.size() - 1);
    base::make_directories(paths.priv);
    return paths;
  }
  TreeStats round(bool final = false) {
    box::sync_image(here_);
    return TreeTest::round({.final = final});
  }
  static void put(const box::Paths& paths, uint64_t page, std::string_view text) {
    const base::Fd fd = base::open(paths.upper + "/data", O_WRONLY | O_CREAT);
    ASSERT_EQ(::pwrite(fd.get(), text.data(), text.size(), static_cast<off_t>(page * 4096)),
              static_cast<ssize_t>(text.size()));
  }
  std::string noise(size_t bytes) {
    std::string text(bytes, '\0');
    for (char& c : text) c = static_cast<char>(random_());
    return text;
  }

  base::ProcessRunner runner_;
  base::Clock clock_;
  std::unique_ptr<base::Progress> progress_ = base::make_progress(base::Talk::kSilent);
  base::Context context_{
      .runner = runner_, .progress = *progress_, .clock = clock_, .state_dir = directory_.path()};
  box::Config config_;
  box::Paths here_, there_;
  std::mt19937 random_{7};
};

TEST_F(ImageTest, GoesByChangedBlocks) {
  put(here_, 0, noise(64 * kMiB));
  EXPECT_GT(round().bytes, 64 * kMiB);
  std::uniform_int_distribution<uint64_t> pages(0, 64 * kMiB / 4096 - 1);
  for (int turn = 0; turn < 3; ++turn) {
    for (int i = 0; i < 160; ++i) put(here_, pages(random_), noise(4096));  // one hundredth
    const uint64_t sent = round(turn == 2).bytes;
    EXPECT_GE(sent, 150 * 4096U);
    EXPECT_LT(sent, 2 * kMiB);
  }
  sync_tree(base::open(to(), O_RDONLY | O_DIRECTORY).get());
  box::mount_image(config_, there_);
  EXPECT_EQ(base::read_file(here_.upper + "/data"), base::read_file(there_.upper + "/data"));
}

TEST_F(ImageTest, WhatIsDeletedBecomesAHole) {
  put(here_, 0, noise(32 * kMiB));
  round();
  EXPECT_GT(box::image_bytes_on_disk(there_), 32 * kMiB);
  ::unlink((here_.upper + "/data").c_str());
  for (int i = 0; i < 100 && box::image_bytes_on_disk(here_) > 8 * kMiB; ++i) {
    box::sync_image(here_);
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  EXPECT_LT(round(true).bytes, kMiB);
  EXPECT_LT(box::image_bytes_on_disk(there_), 8 * kMiB);
}

TEST_F(ImageTest, IsReadWithoutAPlace) {
  put(here_, 0, "text");
  base::unmount_if_mounted(here_.priv);
  const base::Fd upper = box::open_upper(here_);
  EXPECT_FALSE(base::is_mount_point(here_.priv));
  EXPECT_EQ(::faccessat(upper.get(), "data", R_OK, 0), 0);
  EXPECT_EQ(::openat(upper.get(), "new", O_WRONLY | O_CREAT | O_CLOEXEC, 0600), -1);
}

TEST_F(ImageTest, AStartWaitsForTheLastUserOfTheImage) {
  put(here_, 0, "text");
  base::Fd user = base::open(here_.upper + "/data", O_RDONLY);
  base::unmount_if_mounted(here_.priv);  // lazily: the file holds it
  std::thread later([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    user.close();
  });
  const auto start = std::chrono::steady_clock::now();
  box::mount_image(config_, here_);
  EXPECT_GE(std::chrono::steady_clock::now() - start, std::chrono::milliseconds(250));
  later.join();
  EXPECT_TRUE(base::is_mount_point(here_.priv));
}

TEST_F(ImageTest, OfAnotherSizeOrKindIsNotMounted) {
  base::unmount_if_mounted(here_.priv);
  config_.image_bytes *= 2;
  EXPECT_THROW(box::mount_image(config_, here_), base::Error);
  config_.image_bytes /= 2;
  ASSERT_EQ(::rename(from("image").c_str(), from("other").c_str()), 0);
  ASSERT_EQ(::symlink("other", from("image").c_str()), 0);
  EXPECT_THROW(box::mount_image(config_, here_), base::Error);
}

TEST_F(ImageTest, IsNoLargerThanTheDisk) {
  box::Paths paths = place("large", to());
  config_.image_bytes = uint64_t{1} << 60;
  EXPECT_THROW(box::make_image(context_, config_, paths), base::Error);
  EXPECT_FALSE(base::exists(to("image")));
}

}  // namespace
}  // namespace migrate
