#include "box/memory_map.h"

#include <gtest/gtest.h>

namespace box {

void PrintTo(const AddressRange& range, std::ostream* out) {
  *out << std::hex << range.begin << '-' << range.end;
}
bool operator==(const AddressRange& a, const AddressRange& b) { return a.begin == b.begin && a.end == b.end; }

namespace {

using Ranges = std::vector<AddressRange>;

TEST(MemoryMap, PrivateMemoryWithoutAFile) {
  EXPECT_EQ(anonymous_memory("55d0a000-55d0b000 rw-p 00004000 fe:01 1234   /usr/bin/program\n"
                             "55d0b000-55d2c000 rw-p 00000000 00:00 0      [heap]\n"
                             "7f0000000000-7f0004000000 ---p 00000000 00:00 0 \n"
                             "7f0004000000-7f0004001000 rw-s 00000000 00:01 77 /dev/zero (deleted)\n"
                             "7f0005000000-7f0005001000 rw-s 00000000 00:00 0 \n"
                             "7f0005001000-7f0005003000 rw-p 00000000 00:00 0  [anon:stack of mine]\n"
                             "7f0006000000-7f0006200000 rw-p 00000000 00:10 8  /anon_hugepage (deleted)\n"
                             "7f0006200000-7f0006220000 rw-p 00000000 00:11 9  /[aio] (deleted)\n"
                             "7ffd00000000-7ffd00021000 rw-p 00000000 00:00 0  [stack]\n"
                             "7ffd00030000-7ffd00034000 r--p 00000000 00:00 0  [vvar]\n"
                             "7ffd00034000-7ffd00036000 r-xp 00000000 00:00 0  [vdso]\n"
                             "7ffd00040000-7ffd00041000 rw-p 00000000 00:00 0"),
            (Ranges{{0x55d0b000, 0x55d2c000},
                    {0x7f0000000000, 0x7f0004000000},
                    {0x7f0005001000, 0x7f0005003000},
                    {0x7ffd00040000, 0x7ffd00041000}}));
  EXPECT_EQ(anonymous_memory(""), Ranges{});
  EXPECT_EQ(anonymous_memory("no map\n\n1000-\n"), Ranges{});
}

TEST(MemoryMap, InOrder) {
  EXPECT_EQ(in_order({{7, 9}, {1, 3}, {3, 4}, {8, 12}, {7, 8}, {20, 21}}),
            (Ranges{{1, 4}, {7, 12}, {20, 21}}));
}

TEST(MemoryMap, Subtract) {
  auto rest = [](AddressRange range, const Ranges& others) {
    Ranges out;
    subtract(range, others, out);
    return out;
  };
  EXPECT_EQ(rest({10, 20}, {}), (Ranges{{10, 20}}));
  EXPECT_EQ(rest({10, 20}, {{0, 10}, {20, 30}}), (Ranges{{10, 20}}));
  EXPECT_EQ(rest({10, 20}, {{0, 11}, {12, 13}, {19, 30}}), (Ranges{{11, 12}, {13, 19}}));
  EXPECT_EQ(rest({10, 20}, {{10, 20}}), Ranges{});
  EXPECT_EQ(rest({10, 20}, {{5, 25}}), Ranges{});
}

}  // namespace
}  // namespace box
