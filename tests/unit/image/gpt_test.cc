#include "image/gpt.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <functional>

#include "base/error.h"
#include "base/fd.h"
#include "image/sparse.h"

namespace image {
namespace {

constexpr uint64_t kDisk = 8 * kMiB;

PartitionTable sample() {
  return {.disk_uuid = "11111111-2222-4333-8444-555555555555",
          .partitions = {{.name = "drover-bios",
                          .type = std::string(kTypeBiosBoot),
                          .uuid = "AAAAAAAA-2222-4333-8444-555555555501",
                          .start = kMiB,
                          .bytes = kMiB},
                         {.name = "drover-esp",
                          .type = std::string(kTypeEsp),
                          .uuid = "AAAAAAAA-2222-4333-8444-555555555502",
                          .start = 2 * kMiB,
                          .bytes = 3 * kMiB},
                         {.name = "drover-data",
                          .type = std::string(kTypeLinux),
                          .uuid = "AAAAAAAA-2222-4333-8444-555555555503",
                          .start = 5 * kMiB,
                          .bytes = 1536}}};
}

class Gpt : public testing::Test {
 protected:
  std::string path_ = testing::TempDir() + "gpt-" + std::to_string(getpid());
  void SetUp() override { make_sparse(path_, kDisk); }
  void TearDown() override { unlink(path_.c_str()); }

  void expect_refused(const std::string& word) {
    try {
      read_gpt(path_);
      FAIL() << "taken, without: " << word;
    } catch (const base::Error& error) {
      EXPECT_NE(error.message().find(word), std::string::npos) << error.render();
    }
  }
};

TEST_F(Gpt, IsReadAsItWasWritten) {
  write_gpt(path_, sample());
  EXPECT_EQ(read_gpt(path_), sample());
  EXPECT_EQ(find_partition(sample(), "drover-esp").start, 2 * kMiB);
}

/// By the figures of UEFI 2.10: 5.2.3 (MBR), 5.3.2 (header), 5.3.3 (entries).
TEST_F(Gpt, StandsWhereFirmwareLooks) {
  write_gpt(path_, sample());
  std::string disk = base::read_file(path_);
  EXPECT_EQ(disk.substr(510, 2), "\x55\xaa");
  EXPECT_EQ(disk[450], '\xee');
  EXPECT_EQ(disk.substr(512, 8), "EFI PART");
  EXPECT_EQ(disk.substr(kDisk - 512, 8), "EFI PART");
  EXPECT_EQ(disk.substr(1024 + 56, 8), std::string("d\0r\0o\0v\0", 8));
  EXPECT_EQ(disk.substr(1024 + 32, 8), std::string("\0\x08\0\0\0\0\0\0", 8));
  EXPECT_EQ(disk.substr(1024 + 128 * 2 + 40, 8), std::string("\x02\x28\0\0\0\0\0\0", 8));
}

TEST_F(Gpt, HasTheSameBytesEachTime) {
  write_gpt(path_, sample());
  std::string first = base::read_file(path_);
  make_sparse(path_, kDisk);
  write_gpt(path_, sample());
  EXPECT_EQ(base::read_file(path_), first);
}

TEST_F(Gpt, IsRefusedWhenOneCopyIsDamaged) {
  expect_refused("has no GUID partition table");
  for (uint64_t at : {uint64_t{512 + 16}, uint64_t{1024 + 60}, kDisk - 512 + 16, kDisk - 512 * 33 + 60}) {
    make_sparse(path_, kDisk);
    write_gpt(path_, sample());
    write_at(path_, at, "x");
    expect_refused("is not whole");
  }
}

TEST_F(Gpt, IsRefusedWhenTheDiskHasAnotherSize) {
  write_gpt(path_, sample());
  ASSERT_EQ(truncate(path_.c_str(), kDisk + kMiB), 0);
  expect_refused("is not whole");
  ASSERT_EQ(truncate(path_.c_str(), kDisk - kMiB), 0);
  expect_refused(path_);
}

TEST_F(Gpt, TakesNoPartitionThatCannotBe) {
  auto refused = [&](const std::function<void(PartitionTable&)>& change) {
    PartitionTable table = sample();
    change(table);
    EXPECT_THROW(write_gpt(path_, table), base::Error);
  };
  refused([](PartitionTable& table) { table.partitions[1].start = 3 * kMiB / 2; });  // in the first one
  refused([](PartitionTable& table) { table.partitions[2].bytes = kDisk; });
  refused([](PartitionTable& table) { table.partitions[2].bytes = 1000; });
  refused([](PartitionTable& table) { table.partitions[0].type = "bios"; });
  refused([](PartitionTable& table) { table.partitions[0].uuid = "first"; });
  refused([](PartitionTable& table) { table.partitions[0].name = std::string(37, 'x'); });
  refused([](PartitionTable& table) { table.disk_uuid = "disk"; });
}

TEST(FindPartition, IsByOneName) {
  PartitionTable table = sample();
  EXPECT_THROW(find_partition(table, "drover-root-a"), base::Error);
  table.partitions[0].name = "drover-esp";
  EXPECT_THROW(find_partition(table, "drover-esp"), base::Error);
}

}  // namespace
}  // namespace image
