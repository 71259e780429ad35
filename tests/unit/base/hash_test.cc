#include "base/hash.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mount.h"

namespace base {
namespace {

TEST(Sha256, TheVectorsOfFips180) {
  EXPECT_EQ(sha256_hex(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(sha256_hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

TEST(Sha256, OfAFileLargerThanAPiece) {
  TempDir directory = TempDir::make("/tmp", "drover-unit-");
  write_file(directory.path() + "/million", std::string(1'000'000, 'a'));
  EXPECT_EQ(sha256_file_hex(directory.path() + "/million"),
            "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST(Crc32c, TheVectorsOfRfc3720) {
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8a9136aau);
  EXPECT_EQ(crc32c(std::string(32, '\xff')), 0x62a8ab43u);
  EXPECT_EQ(crc32c("123456789"), 0xe3069283u);
  EXPECT_EQ(crc32c(""), 0u);
}

TEST(Sha256, AFilesHolesAreZeros) {
  TempDir directory = TempDir::make("/tmp", "hash-");
  std::string path = directory.path() + "/sparse";
  const off_t end = 3 << 20;
  for (const std::vector<off_t>& places :
       std::vector<std::vector<off_t>>{{},
                                       {0},
                                       {end - 4},
                                       {1 << 20},
                                       {0, 1 << 20, (1 << 20) + 300'000, end - 4},
                                       {4095, 4096 * 300 - 2}}) {
    std::string content(end, '\0');
    Fd file = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    ASSERT_EQ(::ftruncate(file.get(), end), 0);
    for (off_t place : places) {
      content.replace(static_cast<size_t>(place), 4, "data");
      ASSERT_EQ(::pwrite(file.get(), "data", 4, place), 4);
    }
    EXPECT_EQ(sha256_file_hex(path), sha256_hex(content)) << places.size();
  }
  EXPECT_EQ(sha256_file_hex("/dev/null"), sha256_hex(""));
  EXPECT_EQ(sha256_file_hex("/proc/version"), sha256_hex(read_file("/proc/version")));
}

}  // namespace
}  // namespace base
