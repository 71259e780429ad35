#include "image/elf.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "tests/unit/image/image_samples.h"
#include "tests/unit/image/tree_samples.h"

namespace image {
namespace {

const ElfSample kSample = {.interpreter = "/lib64/ld-linux-x86-64.so.2",
                           .needed = {"libone.so.1", "libc.so.6"},
                           .run_path = "$ORIGIN/../lib:/opt/lib"};

class ElfFile : public ::testing::Test {
 protected:
  std::optional<Elf> read(const std::string& bytes) {
    base::write_file(file_, bytes);
    return read_elf(file_);
  }
  /// Nothing but what the contract allows, whatever the bytes are.
  void expect_answer(const std::string& bytes) {
    std::string error = thrown([&] { (void)read(bytes); });
    EXPECT_TRUE(error.empty() || error == damaged_) << error;
  }
  void expect_damaged(const std::string& bytes, const std::string& what) {
    EXPECT_EQ(thrown([&] { (void)read(bytes); }), damaged_) << what;
  }

  base::TempDir directory_ = base::TempDir::make("/dev/shm", "image-elf-");
  std::string file_ = directory_.path() + "/x";
  std::string damaged_ = "error: " + file_ + " is a damaged ELF file\n";
};

/// Writes a field of a header over what is there.
template <class Header, class Field, class Value>
std::string with(std::string bytes, uint64_t at, Field Header::* field, Value value) {
  Header header;
  std::memcpy(&header, bytes.data() + at, sizeof header);
  header.*field = static_cast<Field>(value);
  std::memcpy(bytes.data() + at, &header, sizeof header);
  return bytes;
}
constexpr uint64_t kLoad = ElfSample::kHeaders, kDynamic = kLoad + sizeof(Elf64_Phdr),
                   kInterp = kDynamic + sizeof(Elf64_Phdr);

TEST_F(ElfFile, OfThisSystemAreRead) {
  std::optional<Elf> self = read_elf("/proc/self/exe");
  ASSERT_TRUE(self);
  EXPECT_EQ(self->interpreter, "/lib64/ld-linux-x86-64.so.2");
  EXPECT_TRUE(std::ranges::contains(self->needed, "libstdc++.so.6"));
  EXPECT_TRUE(std::ranges::contains(self->needed, "libc.so.6"));
  std::optional<Elf> library = read_elf("/usr/lib/x86_64-linux-gnu/libstdc++.so.6");
  ASSERT_TRUE(library);
  EXPECT_EQ(library->interpreter, "");
  EXPECT_TRUE(std::ranges::contains(library->needed, "libm.so.6"));
  EXPECT_TRUE(library->run_path.empty());
}

TEST_F(ElfFile, SaysWhatItAsksFor) {
  std::optional<Elf> elf = read(kSample.bytes());
  ASSERT_TRUE(elf);
  EXPECT_EQ(elf->interpreter, kSample.interpreter);
  EXPECT_EQ(elf->needed, kSample.needed);
  EXPECT_EQ(elf->run_path, (std::vector<std::string>{"$ORIGIN/../lib", "/opt/lib"}));
}

TEST_F(ElfFile, WhatIsNoneOrAsksForNothingIsNone) {
  EXPECT_FALSE(read(""));
  EXPECT_FALSE(
      read("\x7f"
           "EL"));
  EXPECT_FALSE(read("#!/bin/sh\n"));
  std::string bytes = kSample.bytes();
  EXPECT_FALSE(read(with(bytes, 0, &Elf64_Ehdr::e_type, ET_REL))) << "a kernel module";
  EXPECT_FALSE(read(with(bytes, 0, &Elf64_Ehdr::e_machine, EM_AARCH64))) << "of another machine";
  std::string small = bytes;
  small[EI_CLASS] = ELFCLASS32;
  EXPECT_FALSE(read(small));
  std::string fixed = with(bytes, kDynamic, &Elf64_Phdr::p_type, PT_NOTE);
  EXPECT_FALSE(read(with(fixed, kInterp, &Elf64_Phdr::p_type, PT_NOTE))) << "static";
}

TEST_F(ElfFile, CutOffAnywhereIsDamaged) {
  std::string bytes = kSample.bytes();
  for (size_t size = SELFMAG; size < bytes.size(); ++size)
    expect_damaged(bytes.substr(0, size), std::to_string(size));
  std::string self = base::read_file("/usr/lib/x86_64-linux-gnu/libgcc_s.so.1", size_t{1} << 30);
  for (size_t size = 0; size < self.size(); size += self.size() / 100) expect_answer(self.substr(0, size));
}

TEST_F(ElfFile, AnyByteMayBeAnything) {
  const std::string bytes = kSample.bytes();
  for (size_t at = 0; at < bytes.size(); ++at) {
    for (int value : {0x00, 0x7f, 0x80, 0xff, bytes[at] ^ 1}) {
      std::string changed = bytes;
      changed[at] = static_cast<char>(value);
      expect_answer(changed);
    }
  }
}

TEST_F(ElfFile, AbsurdOffsetsAndCountsAreDamage) {
  const std::string bytes = kSample.bytes();
  const uint64_t most = ~uint64_t{0};
  expect_damaged(with(bytes, 0, &Elf64_Ehdr::e_phnum, 0xffff), "more headers than bytes");
  expect_damaged(with(bytes, 0, &Elf64_Ehdr::e_phentsize, 7), "headers of another size");
  for (uint64_t offset : {bytes.size() + 0, most, most - sizeof(Elf64_Phdr) + 1, uint64_t{1} << 63}) {
    expect_damaged(with(bytes, 0, &Elf64_Ehdr::e_phoff, offset), "program headers");
    expect_damaged(with(bytes, kDynamic, &Elf64_Phdr::p_offset, offset), "dynamic section");
    expect_damaged(with(bytes, kInterp, &Elf64_Phdr::p_offset, offset), "interpreter");
  }
  expect_damaged(with(bytes, kLoad, &Elf64_Phdr::p_filesz, 0), "strings that are not in the file");
  expect_damaged(with(bytes, kLoad, &Elf64_Phdr::p_vaddr, most), "strings that are in no segment");
  expect_damaged(with(bytes, kLoad, &Elf64_Phdr::p_offset, most), "a segment behind the end");
  // Without its end the dynamic section goes on to the file's.
  std::string endless = with(bytes, kDynamic, &Elf64_Phdr::p_filesz, most);
  for (uint64_t at = ElfSample::kDynamic; at < endless.size(); at += sizeof(Elf64_Dyn))
    if (endless[at] == DT_NULL) endless[at] = DT_DEBUG;
  expect_damaged(endless, "a dynamic section without an end");
}

/// A sum that wraps around would find a text that the file has, where none is meant.
TEST_F(ElfFile, OffsetsDoNotWrapAround) {
  std::string bytes = kSample.bytes();
  Elf64_Dyn first = {.d_tag = DT_NEEDED, .d_un = {.d_val = 0 - kSample.strings()}};
  bytes.replace(ElfSample::kDynamic, sizeof first, reinterpret_cast<const char*>(&first), sizeof first);
  expect_damaged(bytes, "a name in front of the strings");
  // The segment maps the strings' address to a byte in front of the file.
  bytes = with(kSample.bytes(), kLoad, &Elf64_Phdr::p_offset, 0 - kSample.strings());
  expect_damaged(bytes, "a segment in front of the file");
}

}  // namespace
}  // namespace image
