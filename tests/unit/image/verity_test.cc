#include "image/verity.h"

#include <gtest/gtest.h>

#include "base/child.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/hash.h"
#include "base/mount.h"

namespace image {
namespace {

const std::string kSalt = "00ff11223344556677", kUuid = "01234567-89ab-4cde-8f01-23456789abcd";

/// Blocks that differ from each other.
std::string blocks(size_t count) {
  std::string data;
  for (size_t i = 0; i < count; ++i) {
    std::string block = std::format("block {} ", i);
    block.resize(kVerityBlock, '.');
    data += block;
  }
  return data;
}

VerityTree::Area area_of(const std::string& data) {
  VerityTree tree(kSalt, kUuid);
  tree.add(std::as_bytes(std::span(data)));
  return tree.area();
}

/// What `veritysetup format` appends to the same data.
TEST(VerityTree, IsWhatVeritysetupMakes) {
  base::TempDir directory = base::TempDir::make("/tmp", "verity-");
  for (size_t count : {1, 2, 127, 128, 129, 16'385}) {
    std::string data = blocks(count), file = directory.path() + "/root";
    base::write_file(file, data);
    std::string said =
        base::ProcessRunner()
            .run({.argv = {"veritysetup", "format", "--salt=" + kSalt,
                           "--hash-offset=" + std::to_string(data.size()), "--uuid=" + kUuid, file, file}})
            .out;
    VerityTree::Area area = area_of(data);
    EXPECT_TRUE(base::read_file(file, 128 << 20) == data + area.bytes) << count;
    EXPECT_EQ(area.bytes.size(), verity_bytes(data.size())) << count;
    EXPECT_TRUE(said.contains(area.root_hash)) << count << said;
  }
}

TEST(VerityTree, TakesItsDataInPieces) {
  std::string data = blocks(300);
  VerityTree tree(kSalt, kUuid);
  for (size_t at = 0; at < data.size(); at += 3 * kVerityBlock)
    tree.add(std::as_bytes(std::span(data)).subspan(at, 3 * kVerityBlock));
  EXPECT_EQ(tree.area().bytes, area_of(data).bytes);
}

TEST(VerityTree, DiffersWithEveryInput) {
  std::string data = blocks(2), other = data;
  other.back() ^= 1;
  EXPECT_NE(area_of(data).root_hash, area_of(other).root_hash);
  VerityTree salted("abcd", kUuid);
  salted.add(std::as_bytes(std::span(data)));
  EXPECT_NE(salted.area().root_hash, area_of(data).root_hash);
}

TEST(VerityTree, RefusesWhatItCannotHash) {
  EXPECT_THROW((void)area_of(""), base::Error);
  EXPECT_THROW((void)area_of("half a block"), base::Error);
  EXPECT_THROW((void)verity_superblock(4096, "00", "0123"), base::Error);
  EXPECT_THROW((void)verity_superblock(4096, std::string(514, '0'), kUuid), base::Error);
}

}  // namespace
}  // namespace image
