#include "bootstrap/verity.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "tests/unit/base/samples.h"

namespace bootstrap {
namespace {

const std::string kRootHash(64, 'a');

/// What `veritysetup format --salt=0102 --uuid=… --hash-offset=81920` puts before a tree for 80 KiB
/// (cryptsetup 2.7.5).
std::string superblock() {
  std::string bytes(kVeritySuperblockSize, '\0');
  bytes.replace(0, 6, "verity");
  bytes[8] = 1;
  bytes[12] = 1;
  for (size_t i = 0; i < 16; ++i) bytes[16 + i] = static_cast<char>(i * 16 + 1);
  bytes.replace(32, 6, "sha256");
  bytes[65] = 16;  // 4096
  bytes[69] = 16;
  bytes[72] = 20;
  bytes[80] = 2;
  bytes[88] = 1;
  bytes[89] = 2;
  return bytes;
}

std::string refused(size_t at, char byte) {
  std::string bytes = superblock();
  bytes[at] = byte;
  return base::thrown([&] { verity_table(parse_verity_superblock(bytes), "/dev/x", kRootHash, 81'920); });
}

TEST(Verity, TheTableIsThatOfTheSuperblock) {
  VeritySuperblock block = parse_verity_superblock(superblock());
  EXPECT_EQ(block.uuid,
            "0111213141516171"
            "8191a1b1c1d1e1f1");
  EXPECT_EQ(verity_table(block, "/dev/vda3", kRootHash, 81'920),
            "1 /dev/vda3 /dev/vda3 4096 4096 20 21 sha256 " + kRootHash + " 0102 1 restart_on_corruption");
  block.salt.clear();
  EXPECT_TRUE(verity_table(block, "/dev/vda3", kRootHash, 81'920).contains(kRootHash + " - 1 "));
}

TEST(Verity, ADamagedSuperblockIsRefused) {
  EXPECT_TRUE(refused(0, 'V').contains("there is no hash tree"));
  EXPECT_TRUE(refused(7, 'x').contains("there is no hash tree"));
  EXPECT_TRUE(refused(8, 2).contains("another version"));
  EXPECT_TRUE(refused(12, 0).contains("another version"));
  EXPECT_TRUE(refused(35, ' ').contains("damaged"));  // would be a word more in the table
  EXPECT_TRUE(refused(32, '\0').contains("damaged"));
  EXPECT_TRUE(refused(65, 0).contains("damaged"));  // no block size
  EXPECT_TRUE(refused(69, 17).contains("damaged"));
  EXPECT_TRUE(refused(81, 2).contains("damaged"));  // more salt than there is room for
  EXPECT_TRUE(refused(72, 21).contains("21 blocks of data do not fit"));
  EXPECT_TRUE(refused(72, 0).contains("0 blocks of data do not fit"));
  EXPECT_TRUE(refused(79, 1).contains("do not fit"));  // a number that overflows when it is multiplied
  EXPECT_TRUE(base::thrown([] { parse_verity_superblock("verity"); }).contains("there is no hash tree"));
}

TEST(Verity, TheRootHashStandsInTheTable) {
  EXPECT_EQ(
      root_hash_in("1 254:3 254:3 4096 4096 20 21 sha256 " + kRootHash + " 0102 1 restart_on_corruption"),
      kRootHash);
  EXPECT_EQ(root_hash_in("1 254:3"), "");
}

TEST(Verity, WhatIsNotVerifiedIsNot) { EXPECT_FALSE(verity_of("/proc")); }

}  // namespace
}  // namespace bootstrap
