#include <sys/xattr.h>

#include <format>
#include <functional>
#include <random>

#include "migrate/tree_blocks.h"
#include "tests/unit/migrate/tree_tools.h"

namespace migrate {
namespace {

constexpr size_t kMiB = 1 << 20;

class TreePatch : public TreeTest {
 protected:
  /// A file of 4 MiB whose blocks all differ, with one name, that the other side has.
  void SetUp() override {
    TreeTest::SetUp();
    if (IsSkipped()) return;
    write("big", noise(4 * kMiB));
    final_round();
  }
  std::string noise(size_t size) {
    std::string text(size, '\0');
    for (size_t at = 0; at + 8 <= size; at += 8) {
      uint64_t word = random_();
      std::memcpy(&text[at], &word, sizeof word);
    }
    return text;
  }
  void put(const std::string& name, size_t offset, std::string_view text) const {
    base::Fd file = base::open(from(name), O_WRONLY);
    ASSERT_EQ(text.size(), ::pwrite(file.get(), text.data(), text.size(), static_cast<off_t>(offset)));
  }
  void rename(const std::string& name, const std::string& other) const {
    ASSERT_EQ(0, ::rename(from(name).c_str(), from(other).c_str()));
  }
  void punch(const std::string& name, off_t offset, off_t length) const {
    base::Fd file = base::open(from(name), O_WRONLY);
    ASSERT_EQ(0, ::fallocate(file.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length));
  }
  [[nodiscard]] ino_t arrived(const std::string& name) const {
    struct stat status{};
    return ::stat(to(name).c_str(), &status) == 0 ? status.st_ino : 0;
  }
  /// Bytes of content in the round that carries the change.
  template <class Change>
  uint64_t costs(Change change) {
    change();
    const uint64_t bytes = final_round().bytes;
    EXPECT_EQ("", trees_differ());
    return bytes;
  }
  std::mt19937_64 random_{7};
};

TEST_F(TreePatch, OnlyBlocksThatDifferAreSent) {
  const ino_t ino = arrived("big");
  EXPECT_EQ(kBlockSize, costs([&] { put("big", 12345, "x"); }));
  EXPECT_EQ(2 * kBlockSize, costs([&] { put("big", 8 * kBlockSize - 1, "yy"); }));
  EXPECT_EQ(0, costs([&] { ::chmod(from("big").c_str(), 04711); }));
  EXPECT_EQ(0, costs([&] { ::setxattr(from("big").c_str(), "user.a", "b", 1, 0); }));
  EXPECT_EQ(0, costs([&] { ::removexattr(from("big").c_str(), "user.a"); }));
  EXPECT_EQ(kMiB, costs([&] { put("big", kMiB, noise(kMiB)); }));
  EXPECT_EQ(ino, arrived("big"));  // it is the same file, patched
}

TEST_F(TreePatch, FilesGrowAndShrink) {
  EXPECT_EQ(100, costs([&] { put("big", 4 * kMiB, noise(100)); }));
  EXPECT_EQ(200, costs([&] { put("big", 4 * kMiB + 100, noise(100)); }));
  EXPECT_EQ(50, costs([&] { ASSERT_EQ(0, ::truncate(from("big").c_str(), 4 * kMiB + 50)); }));
  EXPECT_EQ(0, costs([&] { ASSERT_EQ(0, ::truncate(from("big").c_str(), 2 * kMiB)); }));
  EXPECT_EQ(0, costs([&] { ASSERT_EQ(0, ::truncate(from("big").c_str(), 8 * kMiB)); }));  // a hole
  EXPECT_EQ(kBlockSize, costs([&] { put("big", 5 * kMiB, "in the hole"); }));
  EXPECT_EQ(1000, costs([&] {
              ASSERT_EQ(0, ::truncate(from("big").c_str(), 1000));  // below what is patched
              put("big", 0, noise(1000));
            }));
  EXPECT_EQ(2 * kMiB, costs([&] { put("big", 0, noise(2 * kMiB)); }));
  EXPECT_EQ(kBlockSize, costs([&] { put("big", 0, "x"); }));
}

TEST_F(TreePatch, HolesComeAndGo) {
  EXPECT_EQ(0, costs([&] { punch("big", 64 << 10, 128 << 10); }));
  EXPECT_EQ(kBlockSize, costs([&] { put("big", 96 << 10, "x"); }));
  EXPECT_EQ(kBlockSize,
            costs([&] { punch("big", (4 << 20) - 5000, 5000); }));  // the rest of a block is zeroed
  EXPECT_EQ(0, costs([&] { punch("big", 0, 4 << 20); }));
  EXPECT_EQ(100, costs([&] { put("big", (4 << 20) + 8192, noise(100)); }));
  EXPECT_EQ(0, costs([&] { punch("big", (4 << 20) + 8192, 4096); }));  // the end of a block that is not whole
}

TEST_F(TreePatch, AFileOfSeveralNamesIsNeverPatched) {
  EXPECT_EQ(4 * kMiB, costs([&] { ASSERT_EQ(0, ::link(from("big").c_str(), from("second").c_str())); }));
  EXPECT_EQ(4 * kMiB, costs([&] { put("second", 5, "x"); }));
  EXPECT_EQ(4 * kMiB, costs([&] { ::unlink(from("second").c_str()); }));
  EXPECT_EQ(kBlockSize, costs([&] { put("big", 5, "y"); }));
}

TEST_F(TreePatch, AFileIsPatchedUnderItsNewName) {
  const ino_t ino = arrived("big");
  EXPECT_EQ(0, costs([&] { rename("big", "moved"); }));
  EXPECT_EQ(kBlockSize, costs([&] {
              rename("moved", "again");
              put("again", 5, "x");
            }));
  EXPECT_EQ(7, costs([&] {  // as logs are rotated
              rename("again", "big.1");
              write("again", "the log");
            }));
  EXPECT_EQ(0, costs([&] { ASSERT_EQ(0, ::mkdir(from("dir").c_str(), 0700)); }));
  EXPECT_EQ(kBlockSize, costs([&] {
              rename("big.1", "dir/again");
              put("dir/again", kBlockSize, "y");
            }));
  EXPECT_EQ(kBlockSize, costs([&] {
              rename("dir/again", "again");  // over one that is there
              put("again", kBlockSize, "z");
              ASSERT_EQ(0, ::rmdir(from("dir").c_str()));
            }));
  EXPECT_EQ(ino, arrived("again"));
  EXPECT_EQ(0, costs([&] { ::unlink(from("again").c_str()); }));
}

TEST_F(TreePatch, FilesThatTakeEachOthersNames) {
  EXPECT_EQ(6 * kMiB, costs([&] {
              write("big.1", noise(4 * kMiB));
              write("big.2", noise(2 * kMiB));
            }));
  EXPECT_EQ(2 * kMiB, costs([&] {  // each moves on, and the last one goes
              rename("big.1", "big.2");
              rename("big", "big.1");
              write("big", noise(2 * kMiB));
            }));
  EXPECT_EQ(4 * kMiB, costs([&] {  // in a circle: one of them whole
              rename("big.1", "other");
              rename("big.2", "big.1");
              rename("other", "big.2");
            }));
  EXPECT_EQ(4 * kMiB, costs([&] {  // into a directory that is new
              ASSERT_EQ(0, ::mkdir(from("dir").c_str(), 0700));
              rename("big.1", "dir/big");
            }));
  EXPECT_EQ(0, costs([&] {  // a directory takes its name
              rename("big.2", "big.3");
              ASSERT_EQ(0, ::mkdir(from("big.2").c_str(), 0700));
            }));
  EXPECT_EQ(4 * kMiB, costs([&] {  // and it that of a directory
              ASSERT_EQ(0, ::rmdir(from("big.2").c_str()));
              rename("big.3", "big.2");
            }));
  EXPECT_EQ(4 * kMiB, costs([&] { rename("dir", "moved"); }));  // with what is in it
  EXPECT_EQ(6, costs([&] { write("small", "a file"); }));
  EXPECT_EQ(4 * kMiB, costs([&] {  // the directory may get the inode number of the file
              ::unlink(from("small").c_str());
              ASSERT_EQ(0, ::mkdir(from("small").c_str(), 0700));
              rename("big.2", "small/big");
            }));
  EXPECT_EQ(kBlockSize, costs([&] { put("moved/big", 5, "y"); }));
}

TEST_F(TreePatch, OnlyTheSameFileIsPatched) {
  EXPECT_EQ(0, costs([&] { rename("big", "moved"); }));
  EXPECT_EQ(4 * kMiB, costs([&] {
              write("another", base::read_file(from("moved")));
              ASSERT_EQ(0, ::rename(from("another").c_str(), from("moved").c_str()));
            }));
  EXPECT_EQ(kBlockSize, costs([&] { put("moved", 5, "z"); }));
}

/// Changes it at the moment when its first bytes leave.
class Meddler : public MemoryStream {
 public:
  explicit Meddler(std::function<void()> meddle) : meddle_(std::move(meddle)) {}
  void write(std::span<const std::byte> piece) override {
    if (meddle_) std::exchange(meddle_, nullptr)();
    MemoryStream::write(piece);
  }

 private:
  std::function<void()> meddle_;
};

TEST_F(TreePatch, WhatChangesWhileItIsReadComesWithTheNextRound) {
  const std::vector<std::function<void()>> changes = {
      [&] { put("big", 3 * kMiB, noise(kMiB)); },
      [&] { put("big", 0, noise(kMiB)); },
      [&] { punch("big", 2 << 20, 1 << 20); },
      [&] { ASSERT_EQ(0, ::truncate(from("big").c_str(), 2 * kMiB + 77)); },
      [&] { put("big", 4 * kMiB, noise(kMiB)); },
  };
  for (const auto& change : changes) {
    put("big", 0, noise(64 << 10));
    Meddler stream(change);
    base::Fd source = base::open(from(), O_RDONLY), destination = base::open(to(), O_RDONLY);
    send_tree(source.get(), stream, last_);
    receive_tree(destination.get(), stream);
    round();
    EXPECT_EQ("", trees_differ());
  }
}

TEST_F(TreePatch, AnyChangesOfALargeFileArrive) {
  auto below = [&](size_t end) { return static_cast<size_t>(random_() % end); };
  uint64_t sent = 0, there = 0;
  for (int i = 0; i < 120; ++i) {
    for (size_t acts = 1 + below(6); acts > 0; --acts) {
      switch (below(8)) {
        case 0:
          ASSERT_EQ(0, ::truncate(from("big").c_str(), static_cast<off_t>(below(6 * kMiB))));
          break;
        case 1:
          punch("big", static_cast<off_t>(below(5 * kMiB)), static_cast<off_t>(1 + below(kMiB)));
          break;
        case 2:
          put("big", below(5 * kMiB) / kBlockSize * kBlockSize, std::string(below(100'000), '\0'));
          break;
        default:
          put("big", below(5 * kMiB), noise(below(100'000)));
          break;
      }
    }
    sent += round({.final = i % 5 != 0}).bytes;
    there += last_.node(1).size;
    ASSERT_EQ("", trees_differ()) << i;
  }
  EXPECT_LT(sent, there / 2);
}

TEST(SentContents, SumsAreOfTheContentAlone) {
  SentContents contents;
  std::string text(2 * kMiB, 'a');
  auto blocks = contents.room_for(text.size()), other = contents.room_for(text.size() + 5);
  ASSERT_TRUE(blocks && other);
  contents.note(*blocks, 0, std::as_bytes(std::span(text)));
  EXPECT_TRUE(other->is_hole(0));
  EXPECT_FALSE(blocks->same(0, *other, 0));
  for (size_t bit = 0; bit < 8 * kBlockSize; bit += 37) {  // the smallest change, anywhere
    std::string changed = text.substr(0, kBlockSize);
    changed[bit / 8] ^= static_cast<char>(1 << (bit % 8));
    contents.note(*other, 0, std::as_bytes(std::span(changed)));
    EXPECT_FALSE(blocks->same(0, *other, 0)) << bit;
  }
  contents.note(*other, 0, std::as_bytes(std::span(text)).first(kBlockSize));
  EXPECT_TRUE(blocks->same(0, *other, 0));
  contents.note(*other, kBlockSize, std::as_bytes(std::span("abc", 3)));
  contents.note(*blocks, kBlockSize, std::as_bytes(std::span("abc\0\0", 5)));
  EXPECT_TRUE(blocks->same(1, *other, 1));  // what is behind the end reads as zeros
  std::string zeros(kBlockSize, '\0');
  contents.note(*other, 0, std::as_bytes(std::span(zeros)));
  EXPECT_FALSE(other->is_hole(0));
}

TEST(SentContents, MemoryIsBounded) {
  SentContents contents;
  EXPECT_FALSE(contents.room_for(uint64_t{1} << 40));
  EXPECT_FALSE(contents.room_for(UINT64_MAX));
  contents.set(1, contents.room_for(uint64_t{60} << 30));
  EXPECT_FALSE(contents.room_for(uint64_t{5} << 30));
  EXPECT_EQ(nullptr, contents.find(1));
  contents.commit();
  EXPECT_NE(nullptr, contents.find(1));
  EXPECT_FALSE(contents.room_for(uint64_t{5} << 30));
  contents.set(1, std::nullopt);
  contents.begin();  // the round failed
  EXPECT_NE(nullptr, contents.find(1));
  contents.set(1, std::nullopt);
  contents.commit();
  EXPECT_EQ(nullptr, contents.find(1));
  EXPECT_TRUE(contents.room_for(uint64_t{5} << 30));
}

}  // namespace
}  // namespace migrate
