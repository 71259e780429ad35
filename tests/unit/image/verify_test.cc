#include "image/verify.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>

#include "base/mount.h"
#include "image/guestfs.h"
#include "tests/unit/image/image_samples.h"

namespace image {
namespace {

class Verify : public ::testing::Test {
 protected:
  void SetUp() override { manifest_ = write_image(directory_, keys_, sample_parts()); }

  /// What is not good, as "NAME: PROBLEM".
  std::vector<std::string> problems() {
    std::vector<std::string> found;
    for (const Verdict& verdict : verify_parts(here_.context, directory_, manifest_))
      if (!verdict.good()) found.push_back(verdict.name + ": " + verdict.problem);
    return found;
  }
  using Problems = std::vector<std::string>;

  void flip(const std::string& part, size_t at) {
    std::string bytes = base::read_file(directory_ + "/" + part);
    bytes[at] = static_cast<char>(bytes[at] ^ 1);
    base::write_file(directory_ + "/" + part, bytes);
  }
  /// The manifest says what is there now, as one would that was wrongly made.
  void adopt(const std::string& part) {
    for (Part& entry : manifest_.parts)
      if (entry.name == part) entry.sha256 = base::sha256_file_hex(directory_ + "/" + part);
  }

  TestContext here_;
  base::TempDir temporary_ = base::TempDir::make("/tmp", "image-verify-");
  base::Keys keys_{temporary_.path() + "/keys"};
  std::string directory_ = temporary_.path() + "/image";
  Manifest manifest_;
};

TEST_F(Verify, AGoodImageIsGoodInAllParts) {
  EXPECT_EQ(problems(), Problems{});
  std::vector<std::string> looked_at;
  for (const Verdict& verdict : verify_parts(here_.context, directory_, manifest_))
    looked_at.push_back(verdict.name);
  EXPECT_EQ(looked_at, (Problems{"boot.cfg", "initrd", "loader/grub.cfg", "root.img", "sbom.spdx.json",
                                 "vmlinuz", "root hash"}));
}

TEST_F(Verify, AFlippedBitIsFoundWhereverItIs) {
  const std::string damaged = ": is damaged: its bytes do not give the SHA-256 of the manifest";
  flip("vmlinuz", 69'999);
  EXPECT_EQ(problems(), Problems{"vmlinuz" + damaged});
  flip("vmlinuz", 69'999);
  flip("root.img", 5000);
  EXPECT_EQ(problems(),
            (Problems{"root.img" + damaged,
                      "root hash: is not that of root.img: Verification failed at position 4096."}));
}

TEST_F(Verify, SizesAreHeldAgainstTheManifest) {
  base::write_file(directory_ + "/initrd", noise(50'000, 3));
  base::write_file(directory_ + "/boot.cfg", "linux\n\n");
  EXPECT_EQ(problems(), (Problems{"boot.cfg: has 7 bytes, not 6", "initrd: has 50000 bytes, not 50001"}));
}

TEST_F(Verify, WhatIsMissingOrNoFileIsNamed) {
  for (const char* part : {"/initrd", "/vmlinuz", "/loader/grub.cfg"}) ::unlink((directory_ + part).c_str());
  ASSERT_EQ(::symlink("/etc/passwd", (directory_ + "/initrd").c_str()), 0);
  base::make_directories(directory_ + "/vmlinuz");
  EXPECT_EQ(problems(), (Problems{"initrd: " + directory_ + " has no initrd",
                                  "loader/grub.cfg: " + directory_ + " has no loader/grub.cfg",
                                  "vmlinuz: " + directory_ + "/vmlinuz is not a regular file",
                                  "vmlinuz: is not named by the manifest"}));
}

TEST_F(Verify, FilesThatNobodyNamedAreFound) {
  base::write_file(directory_ + "/loader/core.img", "x");
  base::write_file(directory_ + "/evil\n\x1b[2J", "x");
  base::make_directories(directory_ + "/more/below");
  EXPECT_EQ(problems(), (Problems{"evil\\n\\u001b[2J: is not named by the manifest",
                                  "loader/core.img: is not named by the manifest",
                                  "more: is not named by the manifest"}));
  for (int i = 0; i < 30; ++i) base::write_file(std::format("{}/x{:02}", directory_, i), "x");
  EXPECT_EQ(problems().size(), 21u);
  EXPECT_EQ(problems().back(), "13 more: are not named by the manifest");
}

TEST_F(Verify, ARootHashThatIsNotOfTheRootIsFound) {
  manifest_.root.root_hash.front() = manifest_.root.root_hash.front() == '0' ? '1' : '0';
  EXPECT_EQ(problems(), Problems{"root hash: is not that of root.img: Verification of root hash failed."});
}

TEST_F(Verify, ATreeThatIsNotOfTheDataIsFound) {
  flip("root.img", manifest_.root.hash_offset() + 2 * kVerityBlock + 100);
  adopt("root.img");
  ASSERT_EQ(problems().size(), 1u);
  EXPECT_TRUE(
      problems()[0].starts_with("root hash: is not that of root.img: Verification failed at position"));
}

TEST_F(Verify, AnotherSuperblockIsFound) {
  flip("root.img", manifest_.root.hash_offset() + 20);  // in the UUID
  adopt("root.img");
  EXPECT_EQ(problems(), Problems{"root hash: the hash area's superblock has not the size, salt and UUID of "
                                 "the manifest"});
}

/// What verify_disk() says, where no machine has to start for it.
class VerifyDisk : public Verify {
 protected:
  void SetUp() override {
    parts_["disk.img"] = "looked at by no test here\n";
    for (const char* name : {"BOOTX64.EFI", "boot.img", "core.img", "ipxe.efi", "ipxe.lkrn"})
      parts_[std::string("loader/") + name] = name;
    manifest_ = write_image(directory_, keys_, parts_);
  }

  std::vector<Verdict> verdicts() {
    return verify_disk(here_.context, directory_, manifest_,
                       verify_parts(here_.context, directory_, manifest_), temporary_.path() + "/cache");
  }
  void expect_not_looked_at(const std::string& why) {
    Problems names, wanted;
    for (const Verdict& verdict : verdicts()) {
      names.push_back(verdict.name);
      EXPECT_EQ(verdict.problem, "not looked at: " + why);
    }
    for (std::string_view look : disk_looks()) wanted.push_back("disk.img: " + std::string(look));
    EXPECT_EQ(names, wanted);
    EXPECT_FALSE(base::exists(temporary_.path() + "/cache")) << "an appliance was to start";
  }

  std::map<std::string, std::string> parts_ = sample_parts();
};

TEST_F(VerifyDisk, AnImageWithoutADiskHasNothingToLookAt) {
  parts_.erase("disk.img");
  manifest_ = write_image(directory_, keys_, parts_);
  EXPECT_TRUE(verdicts().empty());
}

TEST_F(VerifyDisk, IsHeldAgainstGoodPartsOnly) {
  for (const char* part : {"vmlinuz", "root.img", "loader/ipxe.lkrn"}) {
    flip(part, 3);
    expect_not_looked_at(std::string(part) + " is not good");
    flip(part, 3);
  }
  ::unlink((directory_ + "/initrd").c_str());
  expect_not_looked_at("initrd is not good");
}

TEST_F(VerifyDisk, NeedsALoaderToHoldItAgainst) {
  parts_.erase("loader/core.img");
  ::unlink((directory_ + "/loader/core.img").c_str());
  manifest_ = write_image(directory_, keys_, parts_);
  expect_not_looked_at("the image has no loader/core.img");
}

/// Not even of what it points at.
TEST_F(VerifyDisk, IsARegularFileOrNobodyOpensIt) {
  ::unlink((directory_ + "/disk.img").c_str());
  expect_not_looked_at(directory_ + " has no disk.img");
  ASSERT_EQ(::symlink("/dev/zero", (directory_ + "/disk.img").c_str()), 0);
  expect_not_looked_at(directory_ + " has no disk.img");
  ::unlink((directory_ + "/disk.img").c_str());
  ASSERT_EQ(::mkfifo((directory_ + "/disk.img").c_str(), 0600), 0);
  expect_not_looked_at(directory_ + "/disk.img is not a regular file");
}

}  // namespace
}  // namespace image
