#include "image/sgdisk.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace image {
namespace {

PartitionTable sample() {
  return {.disk_uuid = "9F6673B3-39BC-4BA4-88BF-5A6585CB7BE4",
          .partitions = {{.name = "drover-bios",
                          .type = std::string(kTypeBiosBoot),
                          .uuid = "B80627FA-A5F9-40CC-8BA3-3C9F070AEF64",
                          .start = 1048576,
                          .bytes = 1048576},
                         {.name = "drover-esp",
                          .type = std::string(kTypeEsp),
                          .uuid = "073FA39D-63F5-49C3-8F36-700D656CB74D",
                          .start = 2097152,
                          .bytes = 67108864}}};
}

// As gdisk 1.0.10 has said it.
constexpr const char* kSaid = R"(
Warning: There is a gap between the main partition table (ending sector 33)
and the first usable sector (2048). This is helpful in some exotic configurations.

No problems found. 2015 free sectors (1007.5 KiB) available in 1
segments, the largest of which is 2015 (1007.5 KiB) in size.
Disk /dev/sda: 1054720 sectors, 515.0 MiB
Sector size (logical): 512 bytes
Disk identifier (GUID): 9F6673B3-39BC-4BA4-88BF-5A6585CB7BE4
Partition table holds up to 128 entries

Number  Start (sector)    End (sector)  Size       Code  Name
   1            2048            4095   1024.0 KiB  EF02  drover-bios
Partition GUID code: 21686148-6449-6E6F-744E-656564454649 (BIOS boot partition)
Partition unique GUID: B80627FA-A5F9-40CC-8BA3-3C9F070AEF64
First sector: 2048 (at 1024.0 KiB)
Last sector: 4095 (at 2.0 MiB)
Partition size: 2048 sectors (1024.0 KiB)
Attribute flags: 0000000000000000
Partition name: 'drover-bios'
Partition GUID code: C12A7328-F81F-11D2-BA4B-00A0C93EC93B (EFI system partition)
Partition unique GUID: 073FA39D-63F5-49C3-8F36-700D656CB74D
First sector: 4096 (at 2.0 MiB)
Last sector: 135167 (at 66.0 MiB)
Partition size: 131072 sectors (64.0 MiB)
Attribute flags: 0000000000000000
Partition name: 'drover-esp'
)";

TEST(Sgdisk, IsUnderstood) { EXPECT_EQ(parse_sgdisk(kSaid), sample()); }

TEST(Sgdisk, IsGivenTheWholeTable) {
  std::string line = sgdisk_writing(sample());
  for (const char* word :
       {"--disk-guid=9F6673B3-39BC-4BA4-88BF-5A6585CB7BE4", "--new=1:2048:4095", "--new=2:4096:135167",
        "--change-name=2:drover-esp", "--typecode=1:21686148-6449-6E6F-744E-656564454649",
        "--partition-guid=2:073FA39D-63F5-49C3-8F36-700D656CB74D"})
    EXPECT_NE(line.find(word), std::string::npos) << word << " in " << line;
  EXPECT_EQ(sgdisk_printing(2), "sgdisk --verify --print --info=1 --info=2");
}

TEST(Sgdisk, IsGivenNothingThatAShellWouldRead) {
  PartitionTable table = sample();
  table.partitions[0].name = "drover;reboot";
  EXPECT_THROW(sgdisk_writing(table), base::Error);
}

TEST(Sgdisk, IsNotBelievedWhenItFindsProblemsOrSaysLess) {
  std::string said = kSaid;
  EXPECT_THROW(parse_sgdisk(""), base::Error);
  EXPECT_THROW(parse_sgdisk("Creating new GPT entries in memory.\n" + said), base::Error);
  for (const char* word : {"No problems found.", "Disk identifier (GUID): ", "Partition unique GUID: 073",
                           "First sector: 4096", "Last sector: 135167", "Partition name: 'drover-esp'"}) {
    std::string less = said;
    less.erase(less.find(word), std::string_view(word).size());
    EXPECT_THROW(parse_sgdisk(less), base::Error) << word;
  }
}

}  // namespace
}  // namespace image
