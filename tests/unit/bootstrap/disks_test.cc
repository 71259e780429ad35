#include "bootstrap/disks.h"

#include <gtest/gtest.h>

#include "base/child.h"
#include "base/fd.h"
#include "bootstrap/grow.h"
#include "tests/unit/base/samples.h"
#include "tests/unit/bootstrap/machine.h"

namespace bootstrap {
namespace {

class Disks : public testing::Test {
 protected:
  Disks() {
    machine_.add_disk("sdb", 16);
    machine_.add_disk("sdaa", 32);
    machine_.add_disk("sda", 0);
    machine_.add_partition("sdb", "sdb3", 3, "drover-root-a", 19);
    machine_.add_partition("sdb", "sdb5", 5, "drover-data", 21);
    machine_.add_partition("sdaa", "sdaa3", 3, "drover-root-a", 35);
    machine_.add_partition("sda", "sda1", 1, "", 1);
    machine_.add_partition("sda", "sda2", 2, "drover-data", 2);
    machine_.add_mapped("dm-0", 64, "sdb3");
  }
  Machine machine_;
};

TEST_F(Disks, PartitionsWithANameInTheKernelsOrder) {
  std::vector<Partition> all = partitions(machine_.sys());
  std::string devices;
  for (const Partition& partition : all) devices += partition.device + " ";
  EXPECT_EQ(devices, "sda2 sdb3 sdb5 sdaa3 ");
  EXPECT_EQ(all[1], (Partition{.name = "drover-root-a", .device = "sdb3", .disk = "sdb", .number = 3}));
}

TEST_F(Disks, TheFirstDiskIsTakenAndThatIsSaid) {
  std::vector<Partition> all = partitions(machine_.sys());
  EXPECT_EQ(find_partition(all, root_name("a"))->device, "sdb3");
  EXPECT_EQ(about_several(all, root_name("a")),
            "several disks have a partition drover-root-a: sdb, sdaa; that of sdb is taken");
  EXPECT_EQ(about_several(all, "drover-root-b"), "");
  EXPECT_FALSE(find_partition(all, root_name("b")));
}

TEST_F(Disks, DataIsThatOfTheRootsDisk) {
  std::vector<Partition> all = partitions(machine_.sys());
  EXPECT_EQ(find_partition(all, kDataName, "sdb")->device, "sdb5");
  EXPECT_FALSE(find_partition(all, kDataName, "sdaa"));
}

TEST_F(Disks, ADiskIsFoundThroughWhatLiesOverIt) {
  EXPECT_EQ(disk_below(254, 64, machine_.sys()), "sdb");  // the verified root
  EXPECT_EQ(disk_below(254, 2, machine_.sys()), "sda");
  EXPECT_EQ(disk_below(254, 16, machine_.sys()), "sdb");
  EXPECT_FALSE(disk_below(254, 99, machine_.sys()));
}

TEST(Growth, OnlyWhereThereIsRoom) {
  Growth growth = {.disk_sectors = 100'000, .start = 10'000, .sectors = 89'967};
  EXPECT_FALSE(growth.partition_grows());  // to the backup of the GPT
  growth.sectors -= 2047;
  EXPECT_FALSE(growth.partition_grows());  // less than it is aligned to
  growth.sectors -= 1;
  EXPECT_TRUE(growth.partition_grows());
}

TEST(Growth, TablesAgreeOrOneIsDamagedOrNotAtItsPlace) {
  constexpr uint64_t kSectors = 4096;
  base::TempDir directory = base::TempDir::make("/tmp", "tables-");
  const std::string disk = directory.path() + "/disk";
  base::write_file(disk, std::string(kSectors * 512, '\0'));
  EXPECT_FALSE(tables_agree(disk, kSectors));
  base::ProcessRunner().run({.argv = {"sfdisk", "--quiet", disk}, .input = "label: gpt\nsize=1M\n"});
  EXPECT_TRUE(tables_agree(disk, kSectors));
  const std::string good = base::read_file(disk);
  for (uint64_t at : {512 + 24, 512 + 56, 512 + 88, 2 * 512, 34 * 512 - 1, 4095 * 512 + 32, 4063 * 512 + 7}) {
    std::string damaged = good;
    damaged[at] ^= 4;
    base::write_file(disk, damaged);
    EXPECT_FALSE(tables_agree(disk, kSectors)) << at;
  }
  base::write_file(disk, good + std::string(512, '\0'));
  EXPECT_FALSE(tables_agree(disk, kSectors + 1));
}

TEST(Growth, IsRefusedWhereDataIsNoPartitionOfItsOwn) {
  Machine machine;
  EXPECT_TRUE(
      base::thrown([&] { growth_of("/tmp", machine.sys()); }).contains("is not on a partition drover-data"));
}

}  // namespace
}  // namespace bootstrap
