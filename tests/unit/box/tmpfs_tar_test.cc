// What CRIU has tar do, done by our part of its process: what comes out must be what tar makes of it, in both
// directions. env(1) stands for CRIU: it calls execvp(3), too.
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <format>
#include <initializer_list>
#include <random>
#include <string>

#include "base/fd.h"
#include "base/mount.h"
#include "box/criu_part.h"

namespace {

namespace fs = std::filesystem;

constexpr const char* kPack =
    "tar --create --gzip --no-unquote --no-wildcards --one-file-system --check-links --preserve-permissions "
    "--sparse --numeric-owner --directory /proc/self/fd/0 .";
constexpr const char* kUnpack = "tar --extract --gzip --no-unquote --no-wildcards --directory";

class TmpfsTar : public testing::Test {
 protected:
  TmpfsTar() {
    base::write_full(library_.get(), std::as_bytes(box::criu_part_library()), "the library");
    for (const char* name : {"from", "ours", "theirs"}) fs::create_directory(at(name));
  }
  std::string at(const std::string& name) const { return dir_.path() + "/" + name; }
  static int shell(const std::string& command) { return std::system(command.c_str()); }
  std::string preload() const {
    return std::format("LD_PRELOAD=/proc/{}/fd/{} env ", ::getpid(), library_.get());
  }
  /// Whether our part did it.
  bool pack() {
    EXPECT_EQ(shell(preload() + kPack + " <" + at("from") + " >" + at("a.tar.gz") + " 2>" + at("said")), 0);
    return base::read_file(at("said")).contains("drover: packed");
  }
  bool unpack(const std::string& to) {
    EXPECT_EQ(shell(preload() + kUnpack + " " + at(to) + " <" + at("a.tar.gz") + " 2>" + at("said")), 0);
    return base::read_file(at("said")).contains("drover: unpacked");
  }
  void unpack_by_tar(const std::string& to) {
    ASSERT_EQ(shell(std::string(kUnpack) + " " + at(to) + " <" + at("a.tar.gz")), 0);
  }
  /// Types, modes, owners, sizes, times in seconds, links and contents of all that is there.
  std::string content(const std::string& of) {
    EXPECT_EQ(shell("cd " + at(of) + " && { find . ! -type s -printf '%p %y %m %U %G %Ts %l\\n' | sort; " +
                    "find . -type f -print0 | sort -z | xargs -0r sha256sum; } >" + at("listed")),
              0);
    return base::read_file(at("listed"));
  }
  void fill() {
    ASSERT_EQ(shell("cd " + at("from") + R"( && mkdir -p run/lock 'a b' .hidden/deep/er &&
      printf 'text' >run/pid && : >run/empty && head -c 100000 /dev/urandom >'a b/large' && ln -s ../run/pid 'a b/link' &&
      ln -s nowhere .hidden/dangling && mkfifo run/fifo && chmod 1777 run/lock && chmod 4755 run/pid && chmod 0 run/empty &&
      chown 33:44 run/pid run/lock && chown -h 5:6 'a b/link' && touch -d @1000000000 run run/pid && touch -h -d @5 'a b/link' &&
      chmod 2750 . && chown 0:7 . && python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind("run/sock")')"),
              0);
  }

  base::TempDir dir_ = base::TempDir::make("/dev/shm", "tar-");  // blocks are counted as in a box's tmpfs
  base::Fd library_{::memfd_create("criu_part", MFD_CLOEXEC)};
};

TEST_F(TmpfsTar, IsWhatTarReads) {
  fill();
  ASSERT_TRUE(pack());
  unpack_by_tar("theirs");
  EXPECT_EQ(content("theirs"), content("from"));
}

TEST_F(TmpfsTar, UnpacksAsTar) {
  fill();
  ASSERT_TRUE(pack());
  ASSERT_TRUE(unpack("ours"));
  EXPECT_EQ(content("ours"), content("from"));
}

TEST_F(TmpfsTar, NothingAtAll) {
  ASSERT_TRUE(pack());
  ASSERT_TRUE(unpack("ours"));
  EXPECT_EQ(content("ours"), content("from"));
}

TEST_F(TmpfsTar, WhatTarPackedTarUnpacks) {
  fill();
  ASSERT_EQ(shell(std::string(kPack) + " <" + at("from") + " >" + at("a.tar.gz") + " 2>/dev/null"), 0);
  EXPECT_FALSE(unpack("ours"));
  EXPECT_EQ(content("ours"), content("from"));
}

/// What there is of it in the directory, and tar has to do. Each of them next to what we could do.
class LeftToTar : public TmpfsTar, public testing::WithParamInterface<const char*> {};

TEST_P(LeftToTar, AndComesOutRight) {
  fill();
  ASSERT_EQ(shell("cd " + at("from") + " && " + GetParam()), 0);
  EXPECT_FALSE(pack());
  EXPECT_FALSE(unpack("ours"));
  EXPECT_EQ(content("ours"), content("from"));
}

INSTANTIATE_TEST_SUITE_P(Kinds, LeftToTar,
                         testing::Values("ln run/pid run/second", "head -c 2000000 /dev/urandom >much",
                                         "truncate -s 900000 holes", "mknod device c 1 3",
                                         "mkdir -p $(printf '%0120d' 1)/x", "ln -s $(printf '%0120d' 1) far",
                                         "for i in $(seq 2500); do : >many$i; done", "touch -d @-5 before"));

/// Whatever has become of an archive, nothing of it lands outside, and what tar refuses is refused.
TEST_F(TmpfsTar, Damaged) {
  fill();
  ASSERT_TRUE(pack());
  const std::string good = base::read_file(at("a.tar.gz"));
  const std::string before = content("from");
  std::mt19937 random(7);
  for (int i = 0; i < 60; ++i) {
    std::string bad = good;
    if (i % 3 == 0)
      bad.resize(random() % bad.size());
    else
      bad[random() % bad.size()] ^= static_cast<char>(1 + random() % 255);
    base::write_file(at("a.tar.gz"), bad);
    const int status =
        shell(preload() + kUnpack + " " + at("ours") + " <" + at("a.tar.gz") + " 2>" + at("said"));
    if (base::read_file(at("said")).contains("drover: unpacked")) {
      EXPECT_EQ(content("ours"), before) << i;  // the flipped byte was one that says nothing
    } else if (i % 3 == 0) {
      EXPECT_NE(status, 0) << i;
    }
    fs::remove_all(at("ours"));
    fs::create_directory(at("ours"));
  }
}

// a.tar.gz of pack_tmpfs() with another path for "./zz/victim", and all sums right.
constexpr const char* kRename = R"(
import gzip, re, struct, sys, zlib
path, name = sys.argv[1:]
tar = bytearray(gzip.open(path).read())
at = tar.index(b"./zz/victim\0")
tar[at:at + 100] = name.encode().ljust(100, b"\0")
tar[at + 148:at + 156] = b" " * 8
tar[at + 148:at + 156] = b"%07o\0" % sum(tar[at:at + 512])
with open(path, "wb") as out:
    out.write(bytes([0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255]))
    for start in range(0, len(tar), 65535):
        part = tar[start:start + 65535]
        out.write(struct.pack("<BHH", start + 65535 >= len(tar), len(part), len(part) ^ 65535) + part)
    out.write(struct.pack("<II", zlib.crc32(tar), len(tar)))
)";

TEST_F(TmpfsTar, NothingLeadsOut) {
  fill();
  ASSERT_EQ(shell("cd " + at("from") + " && mkdir zz && printf x >zz/victim && ln -s .. up"), 0);
  base::write_file(at("rename.py"), kRename);
  const auto unpacks = [&](const std::string& name) {
    EXPECT_TRUE(pack());
    EXPECT_EQ(shell("python3 " + at("rename.py") + " " + at("a.tar.gz") + " '" + name + "'"), 0);
    shell("rm -rf " + at("ours") + "; mkdir " + at("ours"));
    shell(preload() + kUnpack + " " + at("ours") + " <" + at("a.tar.gz") + " >" + at("said") + " 2>&1");
    return base::read_file(at("said")).contains("drover: unpacked");
  };
  EXPECT_TRUE(unpacks("./zz/other"));
  for (const std::string& name : std::initializer_list<std::string>{
           "./../victim", "./zz/../../victim", "./up/victim", at("victim"), "./zz/..", "./zz/.", "zz/x", ""})
    EXPECT_FALSE(unpacks(name)) << name;
  EXPECT_FALSE(fs::exists(at("victim")));
}

/// As tar: with the file's system full it fails, and says so.
TEST_F(TmpfsTar, NoRoom) {
  fill();
  const int status = shell(preload() + kPack + " <" + at("from") + " >/dev/full 2>" + at("said"));
  EXPECT_NE(status, 0);
  EXPECT_TRUE(base::read_file(at("said")).contains("No space left on device"));
}

/// What CRIU starts otherwise is started.
TEST_F(TmpfsTar, OtherPrograms) {
  EXPECT_EQ(shell(preload() + "sh -c 'exit 7'"), 7 << 8);
  EXPECT_EQ(shell(preload() + "tar --version >/dev/null"), 0);
  EXPECT_EQ(shell(preload() + "nothing-of-this-name 2>/dev/null"), 127 << 8);
}

}  // namespace
