#include "image/delta.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>

#include "base/mount.h"
#include "tests/unit/base/namespace.h"
#include "tests/unit/image/image_samples.h"

namespace image {
namespace {

using Parts = std::map<std::string, std::string>;

class DeltaTest : public ::testing::Test {
 protected:
  DeltaTest() { write_image(old_dir_, keys_, old_); }

  /// Makes the new image of these parts, and the delta to it.
  DeltaReport make(const Parts& parts, const DeltaOptions& options = {}) {
    base::remove_tree(new_dir_);
    write_image(new_dir_, keys_, parts, "2026112802");
    return make_delta(here_.context, old_dir_, new_dir_, keys_, file_, options);
  }
  Manifest apply() { return apply_delta(here_.context, file_, old_dir_, out_dir_, keys_); }

  /// All files below a directory, with their content.
  static Parts files(const std::string& directory) {
    Parts found;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(directory))
      if (entry.is_regular_file())
        found[entry.path().lexically_relative(directory)] = base::read_file(entry.path());
    return found;
  }
  void expect_applied() {
    EXPECT_EQ(apply(), read_image(new_dir_, keys_));
    EXPECT_TRUE(files(out_dir_) == files(new_dir_));
    EXPECT_FALSE(base::exists(out_dir_ + ".half"));
    base::remove_tree(out_dir_);
  }
  std::string path(const std::string& name) const { return temporary_.path() + "/" + name; }

  TestContext here_;
  base::TempDir temporary_ = base::TempDir::make("/tmp", "image-delta-");
  base::Keys keys_{path("keys")};
  std::string old_dir_ = path("old"), new_dir_ = path("new"), out_dir_ = path("out"), file_ = path("delta");
  Parts old_ = sample_parts(), new_ = old_;
};

TEST_F(DeltaTest, AChangedBlockIsABlock) {
  new_["root.img"].replace(100 * kVerityBlock, 8, "changed.");
  DeltaReport report = make(new_);
  // The block itself, headers and manifest: the hash area with another salt is none of it.
  EXPECT_LT(report.bytes, 2 * kVerityBlock);
  EXPECT_EQ(report.bytes, std::filesystem::file_size(file_));
  EXPECT_EQ(report.from, "node-vm@2026112801");
  EXPECT_EQ(report.to, "node-vm@2026112802");
  expect_applied();
}

TEST_F(DeltaTest, WhatMovedByBlocksIsCopied) {
  std::string& root = new_["root.img"];
  root = root.substr(150 * kVerityBlock) + noise(kVerityBlock, 9) + root.substr(0, 150 * kVerityBlock);
  EXPECT_LT(make(new_).bytes, 2 * kVerityBlock + 2000);
  expect_applied();
}

TEST_F(DeltaTest, WhatMovedByBytesIsPatched) {
  new_["initrd"].insert(1, "xyz");
  DeltaReport report = make(new_);
  EXPECT_LT(report.bytes, 6000u);
  for (const auto& part : report.parts) {
    if (part.part == "root.img") continue;
    EXPECT_EQ(part.how, part.part == "initrd" ? "patch" : "same") << part.part;
  }
  expect_applied();
}

TEST_F(DeltaTest, APatchNeedsTheNodesMemory) {
  std::string& root = new_["root.img"];
  root.insert(1, "xyz").resize(300 * kVerityBlock);  // nothing stands where it stood, and nothing compresses
  DeltaReport report = make(new_);
  EXPECT_LT(report.bytes, 10'000u);
  EXPECT_GE(report.memory, root.size());
  expect_applied();
  EXPECT_TRUE(thrown([&] {
                apply_delta(here_.context, file_, old_dir_, out_dir_, keys_, report.memory - 1);
              }).contains("applying this delta takes 7.2 MiB of memory, and 7.2 MiB are allowed"));
  EXPECT_FALSE(base::exists(out_dir_));

  DeltaReport poor = make(new_, {.node_memory = report.memory - 1});
  EXPECT_GT(poor.bytes, root.size());
  EXPECT_LT(poor.memory, report.memory);
  expect_applied();
  EXPECT_TRUE(thrown([&] { make(new_, {.node_memory = 1 << 20}); }).contains("and the node has 1.0 MiB"));
}

TEST_F(DeltaTest, TheLimitIsWhatTheOldImageSays) {
  Manifest manifest = read_image(old_dir_, keys_);
  manifest.node_memory = 1 << 20;
  write_manifest(old_dir_, manifest, keys_);
  EXPECT_TRUE(thrown([&] { make(new_); }).contains("and the node has 1.0 MiB"));
}

TEST_F(DeltaTest, PartsComeGoAndChangeTheirSize) {
  new_.erase("loader/grub.cfg");
  new_["loader/core.img"] = noise(30'000, 7);
  new_["boot.cfg"] = "";
  new_["vmlinuz"].resize(1000);
  new_["initrd"] += noise(100'000, 8);
  new_["root.img"] += noise(20 * kVerityBlock, 9);
  make(new_);
  expect_applied();
  new_["root.img"].resize(kVerityBlock);
  make(new_);
  expect_applied();
}

TEST_F(DeltaTest, NothingChangedIsNearlyNothing) {
  DeltaReport report = make(new_);
  for (const auto& part : report.parts) {
    if (part.part == "root.img") continue;  // its salt is another one
    EXPECT_EQ(part.how, "same") << part.part;
  }
  EXPECT_LT(report.bytes, 4000u);
  expect_applied();
}

/// A disk: the root and the kernel at sectors of their own, and much that is empty.
std::string disk_of(const Parts& parts) {
  std::string disk(32 << 20, '\0');
  disk.replace(3 * 512, 10, "partitions");
  disk.replace(1000 * 512, parts.at("vmlinuz").size(), parts.at("vmlinuz"));
  disk.replace(5001 * 512, parts.at("root.img").size(), parts.at("root.img"));
  return disk;
}

TEST_F(DeltaTest, ADiskIsMadeOfTheOtherParts) {
  old_["disk.img"] = disk_of(old_);
  base::remove_tree(old_dir_);
  write_image(old_dir_, keys_, old_);
  new_["vmlinuz"] = noise(70'000, 22);
  new_["root.img"].replace(0, 4096, noise(4096, 23));
  new_["disk.img"] = disk_of(new_);
  DeltaReport report = make(new_);
  EXPECT_LT(report.bytes, 70'000u + 4096 + 6000);
  apply();
  struct stat status;
  ASSERT_EQ(::stat((out_dir_ + "/disk.img").c_str(), &status), 0);
  EXPECT_LT(status.st_blocks * 512, 4 << 20);  // the rest are holes
  base::remove_tree(out_dir_);
  expect_applied();
}

TEST_F(DeltaTest, TheSameImagesGiveTheSameDelta) {
  new_["initrd"].insert(77, "xyz");
  new_["root.img"].replace(9 * kVerityBlock, 4, "1234");
  make(new_);
  std::string first = base::read_file(file_);
  make(new_);
  EXPECT_TRUE(base::read_file(file_) == first);
}

TEST_F(DeltaTest, AnImageThatIsDamagedMakesNoDelta) {
  new_["initrd"].insert(77, "xyz");
  make(new_);
  base::remove_tree(file_);
  for (const std::string& directory : {old_dir_, new_dir_}) {
    std::string initrd = base::read_file(directory + "/initrd");
    base::write_file(directory + "/initrd", initrd.substr(0, 1000) + "x" + initrd.substr(1001));
    EXPECT_TRUE(thrown([&] {
                  make_delta(here_.context, old_dir_, new_dir_, keys_, file_);
                }).contains(directory + "/initrd is damaged"));
    base::write_file(directory + "/initrd", initrd + "x");
    EXPECT_TRUE(thrown([&] {
                  make_delta(here_.context, old_dir_, new_dir_, keys_, file_);
                }).contains(directory + "/initrd has"));
    base::write_file(directory + "/initrd", initrd);
  }
  EXPECT_FALSE(base::exists(file_));
  EXPECT_FALSE(base::exists(file_ + ".half"));
}

TEST_F(DeltaTest, AnotherOldImageIsToldSo) {
  new_["initrd"].insert(77, "xyz");
  make(new_);
  std::string initrd = base::read_file(old_dir_ + "/initrd");
  initrd[40'000] ^= 1;
  base::write_file(old_dir_ + "/initrd", initrd);
  std::string error = thrown([&] { apply(); });
  EXPECT_TRUE(error.contains("/initrd is not the initrd that the delta is made from")) << error;
  EXPECT_TRUE(error.contains("the delta begins at node-vm@2026112801")) << error;
  ::unlink((old_dir_ + "/initrd").c_str());
  EXPECT_TRUE(thrown([&] { apply(); }).contains("cannot open"));
  EXPECT_FALSE(base::exists(out_dir_));
  EXPECT_FALSE(base::exists(out_dir_ + ".half"));
}

TEST_F(DeltaTest, ADirectoryThatIsThereStays) {
  make(new_);
  base::make_directories(out_dir_);
  EXPECT_TRUE(thrown([&] { apply(); }).contains("out is there already"));
  EXPECT_TRUE(std::filesystem::is_empty(out_dir_));
}

TEST_F(DeltaTest, OnePartAtATimeForANode) {
  new_["root.img"].replace(9 * kVerityBlock, 4, "1234");
  new_["vmlinuz"] = noise(10'000, 5);
  make(new_);
  Delta delta(file_, keys_);
  // As a slot's partition has it: the root, and behind it whatever was there.
  base::write_file(path("slot"), base::read_file(old_dir_ + "/root.img") + noise(99'999, 4));
  const PartPaths old = {{"root.img", path("slot")}, {"vmlinuz", old_dir_ + "/vmlinuz"}};
  delta.write_file(here_.context, "root.img", old, {}, path("root"));
  EXPECT_EQ(base::sha256_file_hex(path("root")), delta.made().manifest.at("root.img").sha256);
  base::write_file(path("kernel"), "the old one");
  delta.write_file(here_.context, "vmlinuz", old, {}, path("kernel"));
  EXPECT_TRUE(base::read_file(path("kernel")) == new_["vmlinuz"]);
  EXPECT_TRUE(thrown([&] {
                delta.write_file(here_.context, "initrd", old, {}, path("x"));
              }).contains("the delta is made from initrd, which is not there"));
}

TEST_F(DeltaTest, ABlockDeviceIsWrittenInPlace) {
  if (::access("/dev/loop-control", R_OK | W_OK) != 0) GTEST_SKIP() << "loop devices need root";
  new_["root.img"].replace(9 * kVerityBlock, 2 * kVerityBlock, std::string(2 * kVerityBlock, '\0'));
  make(new_);
  std::string root = base::read_file(new_dir_ + "/root.img");
  base::write_file(path("from"), base::read_file(old_dir_ + "/root.img") + std::string(1 << 20, 'o'));
  base::write_file(path("to"), std::string(4 << 20, 'n'));
  base::LoopDevice from = base::LoopDevice::attach(path("from"), true),
                   to = base::LoopDevice::attach(path("to"), false);
  base::Fd fd = base::open(to.path(), O_RDWR | O_EXCL);
  Delta(file_, keys_).write_part(here_.context, "root.img", {{"root.img", from.path()}}, {}, fd.get());
  std::string written = base::read_file(to.path());
  EXPECT_TRUE(written.starts_with(root));
  EXPECT_TRUE(written.substr(root.size()) == std::string(written.size() - root.size(), 'n'));
}

/// In a child, with the mounts of a namespace of its own: `body` returns what went wrong.
std::string in_namespace(const std::function<std::string()>& body) {
  base::Pipe pipe = base::make_pipe();
  pid_t pid = ::fork();
  if (pid == 0) {
    std::string said;
    try {
      base::enter_mount_namespace();
      said = body();
    } catch (const base::Error& error) {
      said = error.render();
    }
    base::write_full(pipe.write.get(), said, "the pipe");
    ::_exit(0);
  }
  pipe.write.close();
  std::string said(64 << 10, '\0');
  said.resize(base::read_full(pipe.read.get(), std::as_writable_bytes(std::span(said))));
  int status = 0;
  ::waitpid(pid, &status, 0);
  return status == 0 ? said : "the child was killed";
}

TEST_F(DeltaTest, AFullDiskLeavesNothing) {
  new_["initrd"] = noise(3 << 20, 5);
  make(new_);
  std::string said = in_namespace([&] {
    base::make_directories(path("full"));
    base::Mount disk = base::Mount::make("none", path("full"), "tmpfs", 0, "size=2m");
    std::string error = thrown([&] { apply_delta(here_.context, file_, old_dir_, path("full/out"), keys_); });
    if (!error.contains("No space left on device")) return "not told: " + error;
    error = thrown([&] { make_delta(here_.context, old_dir_, new_dir_, keys_, path("full/delta")); });
    if (!error.contains("No space left on device")) return "not told: " + error;
    base::write_file(path("full/kernel"), "the old one");
    error = thrown([&] {
      Delta(file_, keys_)
          .write_file(here_.context, "initrd", {{"initrd", old_dir_ + "/initrd"}}, {}, path("full/kernel"));
    });
    if (!error.contains("No space left on device")) return "not told: " + error;
    Parts left = files(path("full"));
    return left == Parts{{"kernel", "the old one"}} ? std::string()
                                                    : std::format("{} files are left", left.size());
  });
  EXPECT_EQ(said, "");
}

/// Runs `body` in a child until the pause point, and kills it there.
void kill_at(const std::string& point, const std::function<void()>& body) {
  pid_t pid = ::fork();
  if (pid == 0) {
    ::setenv("DROVER_PAUSE_AT", point.c_str(), 1);
    try {
      body();
    } catch (...) {
      ::_exit(1);
    }
    ::_exit(0);
  }
  int status = 0;
  ::waitpid(pid, &status, WUNTRACED);
  EXPECT_TRUE(WIFSTOPPED(status)) << point << " was not reached";
  ::kill(pid, SIGKILL);
  ::waitpid(pid, &status, 0);
}

TEST_F(DeltaTest, KilledAnywhereItLeavesNoHalfImage) {
  new_["initrd"].insert(77, "xyz");
  new_["root.img"].replace(9 * kVerityBlock, 4, "1234");
  make(new_);
  for (const char* point :
       {"apply.boot.cfg", "apply.vmlinuz", "apply.root.img", "apply.initrd", "apply.signed"}) {
    kill_at(point, [&] { apply(); });
    EXPECT_FALSE(base::exists(out_dir_)) << point;
    EXPECT_TRUE(base::exists(out_dir_ + ".half")) << point;
    expect_applied();  // over what was left
  }
}

TEST_F(DeltaTest, KilledAnywhereAFileIsTheOldOne) {
  new_["initrd"].insert(77, "xyz");
  make(new_);
  std::string delta = base::read_file(file_);
  base::write_file(path("initrd"), "the old one");
  const PartPaths old = {{"initrd", old_dir_ + "/initrd"}};
  kill_at("delta.file",
          [&] { Delta(file_, keys_).write_file(here_.context, "initrd", old, {}, path("initrd")); });
  EXPECT_EQ(base::read_file(path("initrd")), "the old one");
  Delta(file_, keys_).write_file(here_.context, "initrd", old, {}, path("initrd"));
  EXPECT_TRUE(base::read_file(path("initrd")) == new_["initrd"]);
  EXPECT_FALSE(base::exists(path("initrd.half")));

  base::write_file(file_, "an older delta");
  kill_at("delta.written", [&] { make_delta(here_.context, old_dir_, new_dir_, keys_, file_); });
  EXPECT_EQ(base::read_file(file_), "an older delta");
  make_delta(here_.context, old_dir_, new_dir_, keys_, file_);
  EXPECT_TRUE(base::read_file(file_) == delta);
}

}  // namespace
}  // namespace image
