#include "bootstrap/kernel_line.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "tests/unit/base/samples.h"

namespace bootstrap {
namespace {

const std::string kHash(64, 'c');

std::string refused(const std::string& line) {
  return base::thrown([&] { parse_kernel_line(line); });
}

TEST(KernelLine, SaysWhatTheLoaderSays) {
  KernelLine facts = parse_kernel_line("BOOT_IMAGE=/drover/b/vmlinuz drover.slot=b drover.root=" + kHash +
                                       " drover.hash-offset=49152 quiet console=ttyS0\n");
  EXPECT_EQ(facts.slot, image::Slot::kB);
  EXPECT_EQ(facts.root_hash, kHash);
  EXPECT_EQ(facts.hash_offset, 49152u);
}

TEST(KernelLine, TheLastWordCounts) {
  EXPECT_EQ(
      parse_kernel_line("drover.slot=b drover.slot=a drover.hash-offset=4096 drover.root=" + kHash).slot,
      image::Slot::kA);
}

TEST(KernelLine, FromTheNetworkThereIsNoSlot) {
  const std::string rest = " drover.hash-offset=4096 drover.root=" + kHash;
  EXPECT_FALSE(parse_kernel_line("drover.network" + rest).slot);
  EXPECT_TRUE(booted_from_network("quiet drover.network\n"));
  EXPECT_FALSE(booted_from_network("drover.network=1 xdrover.network drover.networks"));
  EXPECT_TRUE(refused("drover.network drover.slot=a" + rest).contains("expected one of them"));
}

TEST(KernelLine, NothingElseIsRead) {
  EXPECT_FALSE(booted_from_slot("root=/dev/vda xdrover.slot=a drover.slots=a drover.slot"));
  EXPECT_TRUE(booted_from_slot("quiet\tdrover.slot=a"));
  EXPECT_FALSE(booted_from_slot(""));
}

TEST(KernelLine, NamesTheWordThatIsWrong) {
  const std::string rest = " drover.hash-offset=4096 drover.root=" + kHash;
  EXPECT_EQ(refused(rest), "error: the kernel's command line has no drover.slot=: expected a or b\n");
  EXPECT_EQ(refused("drover.slot=c" + rest),
            "error: drover.slot= on the kernel's command line: expected a or b, found \"c\"\n");
  for (std::string hash : {"", "c", "C", "g"})
    EXPECT_TRUE(refused("drover.slot=a drover.hash-offset=4096 drover.root=" + kHash.substr(1) + hash +
                        (hash == "c" ? "c" : ""))
                    .contains("drover.root= on the kernel's command line: expected 64 hexadecimal digits"))
        << hash;
  for (std::string offset : {"", "0", "4095", "-4096", "4096x", "99999999999999999999999"})
    EXPECT_TRUE(refused("drover.slot=a drover.root=" + kHash + " drover.hash-offset=" + offset)
                    .contains("expected bytes, a multiple of 4096"))
        << offset;
}

}  // namespace
}  // namespace bootstrap
