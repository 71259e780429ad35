#include <fcntl.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/mount.h"
#include "box/images.h"
#include "tests/unit/box/criu_images.h"

namespace box {
namespace {

std::string file_entry(unsigned id, uint64_t flags) {
  const std::string reg =
      number(1, id) + number(2, flags) + number(3, 0) + bytes(5, number(1, 0)) + bytes(6, "/usr/lib/program");
  return record(number(1, 1) + number(2, id) + bytes(3, reg));
}
std::string mm(unsigned exe) {
  return kMagic + record(number(1, 0x55d4efebc000) + number(12, exe) + number(13, 7));
}

constexpr uint64_t kPath = O_PATH | 0100000;  // O_LARGEFILE, which glibc has as 0

struct Images {
  base::TempDir dir = base::TempDir::make("/tmp", "images-");
  void write(const std::string& name, const std::string& content) const {
    base::write_file_atomically(dir.path() + "/" + name, content);
  }
  std::string open_all() const {
    try {
      open_executables(base::open(dir.path(), O_RDONLY | O_DIRECTORY).get());
    } catch (const base::Error& error) {
      return error.message();
    }
    return base::read_file(dir.path() + "/files.img");
  }
};

TEST(ImagesOfPrograms, AnExecutableThatIsOpenAsAPathIsOpenedForReading) {
  const Images images;
  images.write("mm-1.img", mm(3));
  images.write("mm-72.img", mm(4));
  const std::string before = kMagic + file_entry(3, 0100000), after = file_entry(5, kPath);
  images.write("files.img", before + file_entry(4, kPath) + after);
  const std::string changed = images.open_all();
  // As long as before: 0x8000 with a zero in front.
  std::string wanted = file_entry(4, kPath);
  const size_t at = wanted.find(varint(kPath));
  ASSERT_NE(at, std::string::npos);
  ASSERT_EQ(varint(kPath).size(), 4u);
  wanted.replace(at, 4, std::string("\x80\x80\x82\x00", 4));
  EXPECT_EQ(changed, before + wanted + after);
}

TEST(ImagesOfPrograms, WithoutOneNothingIsChanged) {
  const Images images;
  images.write("mm-1.img", mm(3));
  const std::string files = kMagic + file_entry(3, 0100000) + file_entry(5, kPath);
  images.write("files.img", files);
  EXPECT_EQ(images.open_all(), files);
}

TEST(ImagesOfPrograms, WhatIsCutOffIsRefused) {
  const Images images;
  images.write("mm-1.img", mm(3));
  const std::string files = kMagic + file_entry(3, kPath);
  for (size_t size = kMagic.size() + 1; size < files.size(); ++size) {
    images.write("files.img", files.substr(0, size));
    EXPECT_TRUE(images.open_all().contains("not as CRIU 4.2 writes them")) << size;
  }
  images.write("files.img", "short");
  EXPECT_TRUE(images.open_all().contains("not as CRIU 4.2 writes them"));
}

}  // namespace
}  // namespace box
