#include "image/modules.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "image/hardware.h"
#include "tests/unit/image/image_samples.h"
#include "tests/unit/image/tree_samples.h"

namespace image {
namespace {

using Texts = std::vector<std::string>;

class Modules : public ::testing::Test {
 protected:
  void SetUp() override {
    put("modules.dep",
        "kernel/fs/xfs/xfs.ko.xz: kernel/lib/libcrc32c.ko.xz\n"
        "kernel/lib/libcrc32c.ko.xz:\n"
        "kernel/crypto/crc32c_generic.ko.xz:\n"
        "kernel/drivers/md/dm-verity.ko.xz: kernel/drivers/md/dm-bufio.ko.xz kernel/drivers/md/dm-mod.ko.xz\n"
        "kernel/drivers/md/dm-bufio.ko.xz: kernel/drivers/md/dm-mod.ko.xz\n"
        "kernel/drivers/md/dm-mod.ko.xz:\n"
        "kernel/net/plain.ko:\n");
    put("modules.softdep",
        "# Soft dependencies extracted from modules themselves.\n"
        "softdep libcrc32c pre: crc32c_generic post: plain\n"
        "softdep crc32c pre: crc32c-intel\n");
    put("modules.builtin", "kernel/fs/ext4/ext4.ko\nkernel/drivers/block/virtio-blk.ko\n");
  }
  void put(const std::string& name, const std::string& text) { tree_.put("/6.12.1/" + name, text); }
  [[nodiscard]] ModuleTables tables() const { return ModuleTables::read(tree_.path() + "/6.12.1"); }
  [[nodiscard]] Texts files(const std::vector<std::string_view>& names) const {
    return tables().files(names);
  }

  SampleTree tree_;
};

TEST_F(Modules, NamesAreTheKernels) {
  EXPECT_EQ(module_name("kernel/drivers/md/dm-mod.ko.xz"), "dm_mod");
  EXPECT_EQ(module_name("a.ko"), "a");
  EXPECT_EQ(module_name("snd-hda-intel"), "snd_hda_intel");
  EXPECT_TRUE(tables().has("dm_mod"));
  EXPECT_TRUE(tables().has("virtio_blk")) << "built in";
  EXPECT_FALSE(tables().has("dm-mod"));
  EXPECT_FALSE(tables().has("e1000"));
  EXPECT_EQ(tables().version(), "6.12.1");
}

TEST_F(Modules, StandBehindWhatTheyNeed) {
  EXPECT_EQ(files({"dm_verity"}), (Texts{"kernel/drivers/md/dm-mod.ko.xz", "kernel/drivers/md/dm-bufio.ko.xz",
                                         "kernel/drivers/md/dm-verity.ko.xz"}));
}

TEST_F(Modules, OfASoftDependencyAsWellInFrontOrBehind) {
  EXPECT_EQ(files({"xfs"}), (Texts{"kernel/crypto/crc32c_generic.ko.xz", "kernel/lib/libcrc32c.ko.xz",
                                   "kernel/net/plain.ko", "kernel/fs/xfs/xfs.ko.xz"}));
}

/// As libcrc32c's "crc32c": an Intel processor has the one, any machine the other.
TEST_F(Modules, ASoftDependencyMayBeAnAliasOfSeveral) {
  put("modules.softdep", "softdep libcrc32c pre: crypto-crc32c\n");
  put("modules.alias",
      "# Aliases extracted from modules themselves.\n"
      "alias pci:v00008086d* plain\nalias crypto-crc32c dm_bufio\nalias crypto-crc32c crc32c_generic\n"
      "alias ring ring\nalias crypto-crc32c gone\nalias\nalias a b c\n");
  EXPECT_EQ(files({"libcrc32c", "ring"}),
            (Texts{"kernel/drivers/md/dm-mod.ko.xz", "kernel/drivers/md/dm-bufio.ko.xz",
                   "kernel/crypto/crc32c_generic.ko.xz", "kernel/lib/libcrc32c.ko.xz"}));
}

TEST_F(Modules, ComeOnceEach) {
  EXPECT_EQ(files({"dm_mod", "dm_verity", "dm_bufio", "dm_mod"}),
            (Texts{"kernel/drivers/md/dm-mod.ko.xz", "kernel/drivers/md/dm-bufio.ko.xz",
                   "kernel/drivers/md/dm-verity.ko.xz"}));
}

TEST_F(Modules, BuiltInOrUnknownHaveNoFile) {
  EXPECT_EQ(files({"ext4", "virtio_blk", "no_such_module", ""}), Texts{});
  EXPECT_EQ(tables().all_files().size(), 7u);
}

/// Which depmod does not write, and nobody shall hang on.
TEST_F(Modules, CyclesAndNonsenseEnd) {
  put("modules.dep", "a.ko: b.ko\nb.ko: a.ko\nno colon here\n: x.ko\n\nself.ko: self.ko gone.ko\n");
  put("modules.softdep",
      "softdep\nsoftdep a\nsoftdep a pre:\nsoftdep a pre: a post: a b\nsoftdep gone pre: a\n");
  EXPECT_EQ(files({"a"}), (Texts{"b.ko", "a.ko"}));
  EXPECT_EQ(files({"self"}), Texts{"self.ko"});
}

TEST_F(Modules, WithoutATableThereIsNoKernel) {
  EXPECT_EQ(thrown([&] { ModuleTables::read("/nonexistent/6.1"); }),
            "error: the kernel has no table of its modules: no file /nonexistent/6.1/modules.dep\n");
  std::filesystem::remove(tree_.path() + "/6.12.1/modules.softdep");
  std::filesystem::remove(tree_.path() + "/6.12.1/modules.builtin");
  EXPECT_EQ(files({"libcrc32c"}), Texts{"kernel/lib/libcrc32c.ko.xz"});
}

Definition with_hardware(const std::string& families) {
  return parse_definition(
      "name = \"node\"\nsuite = \"trixie\"\npackages = [\"kmod\"]\nhardware = [" + families + "]\n", "x.toml",
      "/nonexistent");
}

TEST_F(Modules, OfAFamilyAreWantedInTheInitrdWhenItMayReachTheRoot) {
  put("modules.dep", "virtio_net.ko:\ni6300esb.ko:\n");
  Definition node = with_hardware("\"virtio\", \"watchdog\"");
  auto early = wanted_modules(node, tables(), Needed::kInInitrd);
  auto all = wanted_modules(node, tables(), Needed::kOnNode);
  EXPECT_TRUE(std::ranges::contains(early, "virtio_net"));
  EXPECT_FALSE(std::ranges::contains(early, "i6300esb"));
  EXPECT_FALSE(std::ranges::contains(all, "ixgbe"));
  for (std::string_view name : {"virtio_net", "i6300esb", "erofs"})
    EXPECT_TRUE(std::ranges::contains(all, name)) << name;
  for (std::string_view name : early) EXPECT_TRUE(std::ranges::contains(all, name)) << name;
  for (std::string_view name : node_modules()) EXPECT_TRUE(std::ranges::contains(all, name)) << name;
}

TEST_F(Modules, AFamilyThatTheKernelDoesNotHaveIsTold) {
  Definition node = with_hardware("\n  \"nvme\"\n");
  std::string error = thrown([&] { (void)wanted_modules(node, tables(), Needed::kInInitrd); });
  EXPECT_TRUE(error.starts_with("error: x.toml:5: hardware: the kernel 6.12.1 has no driver of nvme\nhint: "))
      << error;
  // "all" is what there is.
  auto all = wanted_modules(with_hardware("\"all\""), tables(), Needed::kOnNode);
  EXPECT_TRUE(std::ranges::contains(all, "nvme") && std::ranges::contains(all, "ixgbe"));
}

TEST(Firmware, IsWhatModulesName) {
  base::TempDir directory = base::TempDir::make("/tmp", "image-firmware-");
  TestContext here;
  EXPECT_EQ(firmware_of(here.context, {}), std::set<std::string>{});
  EXPECT_NE(thrown([&] { (void)firmware_of(here.context, {directory.path() + "/gone.ko"}); }), "");
}

}  // namespace
}  // namespace image
