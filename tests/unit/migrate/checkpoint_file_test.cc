#include "migrate/checkpoint_file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <random>

#include "tests/unit/migrate/tree_tools.h"

namespace migrate {
namespace {

class CheckpointFile : public testing::Test {
 protected:
  void SetUp() override {
    CheckpointWriter writer(path_, "the file");
    writer.header({{"box", "web1"}});
    put(writer, Part::kRound, round_);
    put(writer, Part::kRound, "");
    put(writer, Part::kImages, "images");
    writer.sign(keys_, "a comment");
    EXPECT_EQ(writer.bytes(), base::read_file(path_).size());
    whole_ = base::read_file(path_);
  }

  static void put(CheckpointWriter& writer, Part part, std::string_view text) {
    writer.begin(part);
    ZstdSink sink(writer);
    sink.write(std::as_bytes(std::span(text)));
    sink.finish();
  }
  static std::string get(CheckpointReader& reader, size_t size) {
    ZstdSource source(reader);
    std::string text(size, '\0');
    source.read_exact(std::as_writable_bytes(std::span(text)));
    source.finish();
    return text;
  }
  /// What is said of a file with this content, when it is verified and when then all of it is read.
  std::string says(std::string_view content) {
    base::write_file(path_, content);
    return error_of([&] { CheckpointReader(path_).verify(keys_); });
  }
  static std::string noise(size_t size) {
    std::mt19937 random(3);
    std::string text(size, '\0');
    for (char& c : text) c = static_cast<char>(random());
    return text;
  }
  /// A part as in the format.
  static std::string part(int type, std::string_view payload) {
    std::string text(1, static_cast<char>(type));
    for (int shift : {0, 8, 16, 24}) text += static_cast<char>(payload.size() >> shift);
    return text + std::string(payload);
  }
  std::string signed_by_us(const std::string& body) {
    base::Blake2b hash;
    hash.add(std::as_bytes(std::span(body)));
    return body + part(64, keys_.sign(hash.digest(), "c"));
  }

  base::TempDir directory_ = base::TempDir::make("/tmp", "checkpoint-");
  std::string path_ = directory_.path() + "/file";
  base::Keys keys_{directory_.path() + "/keys"};
  std::string round_ = noise(1'000'000), whole_;
};

TEST_F(CheckpointFile, WhatGoesInComesOut) {
  struct stat s{};
  ASSERT_EQ(::stat(path_.c_str(), &s), 0);
  EXPECT_EQ(s.st_mode & 07777, 0600u);
  CheckpointReader reader(path_);
  uint64_t seen = 0;
  EXPECT_EQ(reader.verify(keys_, [&](uint64_t at) { seen = at; }), nlohmann::json({{"box", "web1"}}));
  EXPECT_GT(seen, round_.size());
  EXPECT_EQ(reader.next_tree(), Part::kRound);
  EXPECT_TRUE(get(reader, round_.size()) == round_);
  EXPECT_EQ(reader.next_tree(), Part::kRound);
  EXPECT_EQ(get(reader, 0), "");
  EXPECT_EQ(reader.next_tree(), Part::kImages);
  EXPECT_EQ(get(reader, 6), "images");
  EXPECT_EQ(reader.next_tree(), std::nullopt);
}

TEST_F(CheckpointFile, IsNeverWrittenOverAnother) {
  EXPECT_TRUE(error_of([&] { CheckpointWriter(path_, "it"); }).starts_with("cannot write it"));
}

TEST_F(CheckpointFile, EveryBitCounts) {
  const size_t signature = whole_.find("untrusted comment"), first_line = whole_.find('\n', signature);
  for (size_t at = 0; at < whole_.size(); at += at < 200 || at > signature - 200 ? 1 : 9973) {
    if (at >= signature && at < first_line && at > signature + 18)
      continue;  // signed by nobody, as minisign has it
    std::string changed = whole_;
    changed[at] = static_cast<char>(changed[at] ^ (1 << (at % 8)));
    EXPECT_NE(says(changed), "no error") << at;
  }
}

TEST_F(CheckpointFile, CutOff) {
  for (size_t size = 0; size < whole_.size(); size += size < 300 || size > whole_.size() - 600 ? 1 : 9973)
    EXPECT_EQ(
        says(std::string_view(whole_).substr(0, size)),
        size < 8 ? path_ + " is no checkpoint of a box" : path_ + " is cut off: its signature is missing")
        << size;
}

TEST_F(CheckpointFile, MoreThanIsDue) {
  EXPECT_EQ(says(whole_ + "abc"), path_ + " goes on for 3 bytes behind its signature");
}

TEST_F(CheckpointFile, OtherFiles) {
  EXPECT_EQ(says("#!/bin/sh\necho\n"), path_ + " is no checkpoint of a box");
  EXPECT_EQ(says("DRVCKPT2" + whole_.substr(8)),
            path_ + " is a checkpoint of another version of drover, or damaged");
  EXPECT_EQ(error_of([&] { CheckpointReader(directory_.path()); }),
            directory_.path() + " is not a regular file");
  EXPECT_EQ(error_of([&] { CheckpointReader("/dev/null"); }), "/dev/null is not a regular file");
}

TEST_F(CheckpointFile, AForeignKey) {
  base::Keys other(directory_.path() + "/other");
  (void)other.sign("makes a key", "");
  EXPECT_EQ(error_of([&] { CheckpointReader(path_).verify(other); }),
            path_ + " is not signed by a key that is trusted here");
  base::write_file(other.directory() + "/us.pub", base::read_file(keys_.directory() + "/local.pub"));
  EXPECT_EQ(error_of([&] { CheckpointReader(path_).verify(other); }), "no error");
}

TEST_F(CheckpointFile, ChangedBetweenTheTwoReadings) {
  CheckpointReader reader(path_);
  reader.verify(keys_);
  std::string changed = whole_;
  changed[changed.find("DRVCKPT1") + 8 + 5 + 3] ^=
      1;  // in the header, which is not read again for its content
  base::write_file(path_, changed);
  CheckpointReader again(path_);
  EXPECT_NE(error_of([&] { again.verify(keys_); }), "no error");
  base::write_file(path_, whole_);
  again.verify(keys_);
  base::Fd file = base::open(path_, O_WRONLY);
  const size_t at = whole_.size() / 2;
  const char other = static_cast<char>(whole_[at] ^ 1);
  ASSERT_EQ(::pwrite(file.get(), &other, 1, static_cast<off_t>(at)), 1);
  const std::string says = error_of([&] {
    again.next_tree();
    get(again, round_.size());
    again.next_tree();
    get(again, 0);
    again.next_tree();
    get(again, 6);
    again.next_tree();
  });
  // Noise is stored as it is: zstd's checksum or ours notices.
  EXPECT_TRUE(says.contains("cannot be decompressed") || says == path_ + " was changed while it was read")
      << says;
}

TEST_F(CheckpointFile, PartsInAnotherOrder) {
  const std::string magic = "DRVCKPT1", header = part(16, "{}"), round = part(20, ""), images = part(22, ""),
                    data = part(1, "x"), end = part(2, "");
  EXPECT_EQ(says(signed_by_us(magic + header + round + data + end + images + data + end)), "no error");
  for (const std::string& body :
       {magic + round + data + end + images + data + end,
        magic + header + header + round + end + images + end, magic + header + images + data + end,
        magic + header + data + end, magic + header + round + end,
        magic + header + round + end + images + end + round + end, magic + header + round + images + end,
        magic + header + round + end + images + end + images + end, magic + header + round + end + data + end,
        magic + header + round + data + images + end, magic + header, magic})
    EXPECT_TRUE(says(signed_by_us(body)).starts_with(path_ + " is damaged near byte "))
        << says(signed_by_us(body));
  for (const std::string& bad : {part(1, ""), part(1, std::string(kMaxPiece + 1, 'x')), part(2, "x"),
                                 part(20, "x"), part(3, "x"), part(255, ""), part(0, "")})
    EXPECT_TRUE(
        says(signed_by_us(magic + header + round + bad)).starts_with(path_ + " is damaged near byte "));
  EXPECT_TRUE(says(signed_by_us(magic + part(16, "[]") + round + end + images + end)).contains("is damaged"));
  EXPECT_TRUE(says(signed_by_us(magic + part(16, "{") + round + end + images + end)).contains("is damaged"));
}

}  // namespace
}  // namespace migrate
