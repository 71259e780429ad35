#include "image/bios_boot.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace image {
namespace {

std::string boot_image() {
  std::string image(510, '\xcc');
  return image + "\x55\xaa";
}

/// Three sectors and a bit, as grub-mkimage leaves them: sectors 1 to 3 behind the first one.
std::string core_image() {
  std::string first(488, '\xcc');
  first += std::string(12, '\0') + std::string("\x01\0\0\0\0\0\0\0\x03\0\x20\x08", 12);
  return first + std::string(2 * 512 + 100, 'c');
}

TEST(BootCode, KnowsWhereCoreIs) {
  std::string code = boot_code(boot_image(), 0x1234567890);
  EXPECT_EQ(code.size(), kBootCodeBytes);
  EXPECT_EQ(code.substr(0x5c, 8), std::string("\x90\x78\x56\x34\x12\0\0\0", 8));
  EXPECT_EQ(code.substr(0x66, 2), "\x90\x90");
  for (size_t k = 0; k < code.size(); k++) {
    bool changed = (k >= 0x5c && k < 0x64) || k == 0x66 || k == 0x67;
    EXPECT_TRUE(changed || code[k] == '\xcc') << k;
  }
}

TEST(BootCode, IsMadeOfABootSectorOnly) {
  EXPECT_THROW(boot_code(boot_image() + "x", 2048), base::Error);
  EXPECT_THROW(boot_code(std::string(512, 'x'), 2048), base::Error);
  EXPECT_THROW(boot_code("", 2048), base::Error);
}

TEST(Core, KnowsWhereItsRestIs) {
  std::string core = core_at(core_image(), 2048);
  EXPECT_EQ(core.size(), 4U * 512);
  EXPECT_EQ(core.substr(500, 12), std::string("\x01\x08\0\0\0\0\0\0\x03\0\x20\x08", 12));
  EXPECT_EQ(core.substr(0, 500), core_image().substr(0, 500));
  EXPECT_EQ(core.substr(512), core_image().substr(512) + std::string(412, '\0'));
}

TEST(Core, IsRefusedWhenItIsNotWhatGrubMakes) {
  EXPECT_THROW(core_at("", 2048), base::Error);
  EXPECT_THROW(core_at(core_image().substr(0, 512), 2048), base::Error);
  EXPECT_THROW(core_at(core_image().substr(0, 1000), 2048), base::Error);          // cut off
  EXPECT_THROW(core_at(core_image() + std::string(512, 'c'), 2048), base::Error);  // more than it says
}

}  // namespace
}  // namespace image
