#include "migrate/block_watch.h"

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdlib>
#include <map>
#include <optional>
#include <random>
#include <thread>
#include <utility>

#include "migrate/tree_blocks.h"
#include "tests/unit/base/namespace.h"
#include "tests/unit/migrate/tree_tools.h"

namespace migrate {
namespace {

constexpr size_t kMiB = 1 << 20;
// A page that is written to counts with the folio in which it lies, and what was told last counts again.
constexpr size_t kLittle = 4 * kMiB + 8 * kBlockSize;

/// Two trees on the tests' directory, which has to lie on an ext4.
class BlockWatchTest : public TreeTest {
 protected:
  void SetUp() override {
    TreeTest::SetUp();
    if (IsSkipped()) return;
    const base::Fd root = base::open(from(), O_RDONLY | O_DIRECTORY);
    watch_ = BlockWatch::start(root.get());
    ASSERT_TRUE(watch_) << from() << " has to lie on an ext4";
  }

  void start_over() {
    SetUp();
    last_ = {};
    base::remove_tree(to());
    base::make_directories(to());
  }
  std::string noise(size_t size) {
    std::string text(size, '\0');
    for (char& c : text) c = static_cast<char>(random_());
    return text;
  }
  size_t below(size_t end) { return static_cast<size_t>(random_() % end); }
  [[nodiscard]] base::Fd file(const std::string& name, int flags = O_RDWR) const {
    return base::open(from(name), flags);
  }
  void put(const std::string& name, size_t at, std::string_view text, int flags = 0) const {
    const base::Fd fd = file(name, O_WRONLY | flags);
    ASSERT_EQ(text.size(), ::pwrite(fd.get(), text.data(), text.size(), static_cast<off_t>(at)));
  }
  /// Not where the holes are: ext4 shows what was allocated and never written as data once it was read.
  [[nodiscard]] bool same(const std::string& name) const {
    return base::read_file(from(name)) == base::read_file(to(name));
  }
  TreeStats live() { return round({.open = std::nullopt, .blocks = watch_.get()}); }
  TreeStats last() { return round({.final = true, .blocks = watch_.get()}); }

  /// One change of a file by a way of writing to it, at random.
  void change(const std::string& name, const base::Fd& direct, bool moves = true) {
    const base::Fd fd = file(name);
    struct stat status{};
    ASSERT_EQ(0, ::fstat(fd.get(), &status));
    const auto size = static_cast<size_t>(status.st_size);
    const size_t at = below(size), length = std::array<size_t, 5>{1, 100, 4096, 70'000, 300'000}[below(5)];
    const auto offset = static_cast<off_t>(at), count = static_cast<off_t>(length);
    const auto whole = [](size_t bytes) { return static_cast<off_t>((bytes + 4095) / 4096 * 4096); };
    switch (below(18)) {
      case 0:
      case 1:
      case 2:
        put(name, at, noise(length));
        break;
      case 3:
      case 4:
        store(fd, size);
        break;
      case 5:
      case 6:
      case 7: {
        alignas(4096) static std::array<char, 65536> buffer;
        for (size_t i = 0; i < buffer.size(); i += 8) buffer[i] = static_cast<char>(random_());
        (void)!::pwrite(direct.get(), buffer.data(), below(2) ? 4096 : buffer.size(), offset / 4096 * 4096);
        break;
      }
      case 8:
        ::fsync(fd.get());
        break;
      case 9:
        ::fallocate(fd.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, count);
        break;
      case 10:
        ::fallocate(fd.get(), FALLOC_FL_ZERO_RANGE, offset, count);
        break;
      case 11:
        if (moves) ::fallocate(fd.get(), FALLOC_FL_COLLAPSE_RANGE, offset / 4096 * 4096, whole(length));
        break;
      case 12:
        if (moves && size < 12 * kMiB)
          ::fallocate(fd.get(), FALLOC_FL_INSERT_RANGE, offset / 4096 * 4096, whole(length));
        break;
      case 13:
        (void)!::ftruncate(fd.get(),
                           static_cast<off_t>(std::clamp<size_t>(below(2 * size), 5 * kMiB, 9 * kMiB)));
        break;
      case 14:
        ::posix_fadvise(fd.get(), 0, 0, POSIX_FADV_DONTNEED);
        break;
      case 15: {
        off_t in = static_cast<off_t>(below(size)), out = offset;
        (void)!::copy_file_range(fd.get(), &in, fd.get(), &out, length, 0);
        break;
      }
      case 16:
        ::fallocate(fd.get(), 0, offset, count);
        break;
      default:
        ::sync();
        break;
    }
  }
  void store(const base::Fd& fd, size_t size) {
    void* at = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
    ASSERT_NE(MAP_FAILED, at);
    for (size_t i = 0; i < 3; ++i) static_cast<char*>(at)[below(size)] ^= 1;
    ::munmap(at, size);
  }

  std::mt19937_64 random_{11};
  std::unique_ptr<BlockWatch> watch_;
};

TEST_F(BlockWatchTest, OnlyWhatWasWrittenIsRead) {
  write("big", noise(64 * kMiB));
  EXPECT_EQ(64 * kMiB, live().read);
  for (const int flags : {0, O_SYNC}) {
    put("big", 20 * kMiB + 5 * kBlockSize + 17, noise(1), flags);
    const TreeStats stats = live();
    EXPECT_EQ(kBlockSize, stats.bytes);
    EXPECT_LE(stats.read, kLittle);
    EXPECT_EQ("", trees_differ());
  }
  {
    alignas(4096) static std::array<char, 8192> buffer = {1, 2, 3};
    const base::Fd direct = file("big", O_WRONLY | O_DIRECT);
    ASSERT_EQ(static_cast<ssize_t>(buffer.size()),
              ::pwrite(direct.get(), buffer.data(), buffer.size(), 4096 * 77));
  }
  TreeStats stats = live();
  EXPECT_EQ(2 * kBlockSize, stats.bytes);
  EXPECT_LE(stats.read, kLittle);
  put("big", kMiB + 4096, noise(1));
  stats = last();
  EXPECT_EQ(kBlockSize, stats.bytes);
  EXPECT_EQ("", trees_differ());
  put("big", 0, noise(1));
  EXPECT_EQ(64 * kMiB, live().bytes) << "after the last round nobody knows";
  EXPECT_EQ("", trees_differ());
}

TEST_F(BlockWatchTest, StoresThroughAMappingAreTold) {
  write("big", noise(32 * kMiB));
  live();
  const base::Fd fd = file("big");
  auto* at = static_cast<char*>(::mmap(nullptr, 32 * kMiB, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0));
  ASSERT_NE(MAP_FAILED, at);
  for (int i = 0; i < 3; ++i) {
    at[9 * kMiB + 3 * kBlockSize] ^= 1;
    const TreeStats stats = i < 2 ? live() : last();
    EXPECT_EQ(kBlockSize, stats.bytes);
    EXPECT_LE(stats.read, kLittle);
    EXPECT_EQ("", trees_differ());
  }
  ::munmap(at, 32 * kMiB);
}

TEST_F(BlockWatchTest, AFileThatIsCutShortWhileItIsReadIsNotKnown) {
  write("big", noise(8 * kMiB));
  live();
  put("big", 0, noise(5));
  class Cutter : public MemoryStream {
   public:
    explicit Cutter(std::string path) : path_(std::move(path)) {}
    void write(std::span<const std::byte> piece) override {
      if (!std::exchange(done_, true)) done_ = ::truncate(path_.c_str(), 4 * kMiB + 77) == 0;
      MemoryStream::write(piece);
    }

   private:
    std::string path_;
    bool done_ = false;
  };
  // All of it is read, and 77 bytes of the last block are there.
  Cutter stream(from("big"));
  put("big", 0, noise(4 * kMiB));
  const base::Fd source = base::open(from(), O_RDONLY), destination = base::open(to(), O_RDONLY);
  send_tree(source.get(), stream, last_, {});
  receive_tree(destination.get(), stream);
  ASSERT_EQ(0, ::truncate(from("big").c_str(), 8 * kMiB));  // zeros behind them
  live();
  EXPECT_TRUE(same("big"));
}

TEST_F(BlockWatchTest, AnyChangesArrive) {
  uint64_t read = 0, there = 0;
  for (uint64_t seed = 0; seed < 3; ++seed) {
    random_.seed(seed);
    start_over();
    write("big", noise(8 * kMiB));
    const base::Fd direct = file("big", O_RDWR | O_DIRECT);
    live();
    for (int i = 0; i < 30; ++i) {
      const bool moves = i >= 20;  // then all is read
      for (size_t acts = 1 + below(4); acts > 0; --acts)
        ASSERT_NO_FATAL_FAILURE(change("big", direct, moves));
      const TreeStats stats = i % 10 == 9 ? last() : live();
      ASSERT_TRUE(same("big")) << "seed " << seed << ", round " << i;
      if (i % 10 == 9) live();
      read += moves ? 0 : stats.read;
      there += moves ? 0 : last_.node(1).size;
    }
  }
  EXPECT_LT(read, there * 2 / 3);
}

TEST_F(BlockWatchTest, AnyChangesWhileItIsReadArrive) {
  for (uint64_t seed = 0; seed < 6; ++seed) {
    random_.seed(seed);
    start_over();
    for (const char* name : {"big", "bigger"}) write(name, noise(8 * kMiB));
    std::atomic<bool> done = false;
    std::thread writer([&] {
      const base::Fd one = file("big", O_RDWR | O_DIRECT), two = file("bigger", O_RDWR | O_DIRECT);
      while (!done) change(below(2) ? "big" : "bigger", below(2) ? one : two);
    });
    for (int i = 0; i < 8; ++i) live();
    done = true;
    writer.join();
    last();
    ASSERT_TRUE(same("big") && same("bigger")) << "seed " << seed;
  }
}

TEST_F(BlockWatchTest, WhatWasWrittenAsTheRoundBeganIsToldAgain) {
  write("big", noise(8 * kMiB));
  live();
  // Behind the syncfs(2) of the round and before the file is looked at: the page stays as it is marked then,
  // unless the look brings it to disk.
  put("big", 0, noise(5));
  bool done = false;
  const auto write_once = [&] {
    if (!std::exchange(done, true)) put("big", 5 * kMiB, noise(5));
  };
  round({.open = std::nullopt, .blocks = watch_.get(), .check = write_once});
  ASSERT_TRUE(done);
  EXPECT_EQ("", trees_differ());
  put("big", 5 * kMiB, noise(5));
  EXPECT_EQ(kBlockSize, last().bytes);
  EXPECT_EQ("", trees_differ());
}

TEST_F(BlockWatchTest, AFileThatIsFollowedLaterIsReadWholeOnce) {
  write("first", noise(8 * kMiB));
  write("second", noise(8 * kMiB));
  const auto of = [&](FileSet open) { return round({.open = std::move(open), .blocks = watch_.get()}).read; };
  struct stat status{};
  ASSERT_EQ(0, ::stat(from("first").c_str(), &status));
  of({{status.st_dev, status.st_ino}});
  EXPECT_TRUE(watch_->follows(status.st_ino));
  for (const uint64_t most : {8 * kMiB + 2 * kLittle, 2 * kLittle}) {
    put("first", 8192, noise(5));
    put("second", 8192, noise(5));
    EXPECT_LE(of({}), most);
    EXPECT_EQ("", trees_differ());
  }
}

TEST_F(BlockWatchTest, WhatIsLostIsReadWhole) {
  const base::Fd root = base::open(from(), O_RDONLY | O_DIRECTORY);
  watch_ = BlockWatch::start(root.get(), 4096);  // room for some fifty events
  ASSERT_TRUE(watch_);
  {
    const base::Fd fd =
        base::open(from("big"), O_WRONLY | O_CREAT);  // page by page: one event for each, later
    const std::string page = noise(kBlockSize);
    for (size_t at = 0; at < 64 * kMiB; at += kBlockSize) base::write_full(fd.get(), page, "big");
  }
  live();
  bool lost = false;
  for (int i = 0; i < 50 && !lost; ++i) {
    {
      const base::Fd fd = file("big");
      for (size_t at = 4096; at < 32 * kMiB; at += 8192)
        ASSERT_EQ(1, ::pwrite(fd.get(), "x", 1, static_cast<off_t>(at) + i));
    }
    lost = live().read == 64 * kMiB;  // unless the thread that takes them was quick
    ASSERT_EQ("", trees_differ());
  }
  EXPECT_TRUE(lost);
  for (int i = 0; i < 2; ++i) {
    put("big", 4096, noise(5));
    EXPECT_EQ(64 * kMiB, live().read) << "nobody knows what is still to come";
    ASSERT_EQ("", trees_differ());
  }
}

/// An ext4 of its own, at the place of the tree.
class BlockWatchMountTest : public BlockWatchTest {
 protected:
  void make(const std::string& options) {
    const std::string image = directory_.path() + "/image";
    base::write_file(image, "");
    ASSERT_EQ(0, ::truncate(image.c_str(), 64 * kMiB));
    ASSERT_EQ(0, std::system(("mke2fs -q -F -t ext4 -b 4096 " + image).c_str()));
    base::enter_mount_namespace();
    loop_ = base::LoopDevice::attach(image, false);
    mount_ = base::Mount::make(loop_->path(), from(), "ext4", 0, options);
    const base::Fd root = base::open(from(), O_RDONLY | O_DIRECTORY);
    watch_ = BlockWatch::start(root.get());
    ASSERT_TRUE(watch_);
  }
  void TearDown() override { watch_.reset(); }
  std::optional<base::LoopDevice> loop_;
  std::optional<base::Mount> mount_;
};

// Of what was allocated and not written, ext4 may write zeros to the neighbours of a block that is written
// to, and tells of that one. Where the neighbours had been something else, nothing but the call says so.
TEST_F(BlockWatchMountTest, ZerosThatComeWithAWriteNearbyArrive) {
  for (const char* options :
       {"nodioread_nolock", "nodelalloc,nodioread_nolock", "data=journal", "dioread_nolock"}) {
    start_over();
    ASSERT_NO_FATAL_FAILURE(make(options));
    write("big", noise(8 * kMiB));
    live();
    for (const int mode : {FALLOC_FL_ZERO_RANGE, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE}) {
      const base::Fd fd = file("big");
      const off_t at = mode == FALLOC_FL_ZERO_RANGE ? 100 : 300;
      ASSERT_EQ(0, ::fallocate(fd.get(), mode, at * 4096, 8 * 4096));
      put("big", static_cast<size_t>(at + 3) * 4096, noise(4096));  // those behind it become zeros
      ASSERT_EQ(0, ::fsync(fd.get()));
      if (mode == FALLOC_FL_ZERO_RANGE)
        live();
      else
        last();
      EXPECT_TRUE(same("big")) << options;
    }
    watch_.reset();
    mount_.reset();
    loop_.reset();
  }
}

TEST_F(BlockWatchTest, WhoHasNoFileOrNoLookBeforeHasNoAnswer) {
  write("file", noise(kBlockSize * 5));
  const base::Fd fd = file("file");
  struct stat status{};
  ASSERT_EQ(0, ::fstat(fd.get(), &status));
  const ino_t ino = status.st_ino;
  const auto look = [&](const FileLook* before, FileLook& now) {
    return watch_->look(fd.get(), ino, static_cast<uint64_t>(status.st_size), false, before, now);
  };
  FileLook first, second, third;
  EXPECT_FALSE(look(nullptr, first));
  EXPECT_EQ(0, first.number) << "nobody follows it";
  watch_->follow({{ino, 1}});
  EXPECT_TRUE(watch_->follows(ino));
  EXPECT_FALSE(look(&first, second));
  EXPECT_EQ((BlockRanges{{4, 5}}), look(&second, third));
  EXPECT_FALSE(look(&second, first)) << "what was written before the last look, that one was told";
  std::map<ino_t, uint64_t> many;
  for (ino_t i = 10; i < 500; ++i) many[ino + i] = i;
  watch_->follow(many);
  EXPECT_TRUE(watch_->follows(ino)) << "those that are followed stay";
  EXPECT_TRUE(watch_->follows(ino + 499)) << "the largest ones";
  EXPECT_FALSE(watch_->follows(ino + 10)) << "as many as there is room for";
  EXPECT_EQ((BlockRanges{{4, 5}}), look(&first, second)) << "others that are followed too change nothing";
}

TEST_F(BlockWatchTest, OtherFileSystemsAreNotFollowed) {
  const base::Fd proc = base::open("/proc", O_RDONLY | O_DIRECTORY);
  EXPECT_FALSE(BlockWatch::start(proc.get()));
}

TEST(FileExtents, WhatLiesElsewhereIsDoubtful) {
  const std::vector<Extent> lay = {{{0, 10}, 1 << 20}, {{20, 30}, 2 << 20}};
  const auto of = [](size_t blocks, std::vector<Extent> extents) {
    return FileLook{.number = 1, .blocks = blocks, .extents = std::move(extents)};
  };
  const FileLook before = of(30, lay);
  EXPECT_EQ((BlockRanges{{10, 20}, {29, 30}}), doubtful(before, before, {}));
  EXPECT_EQ((BlockRanges{{3, 5}, {10, 20}, {29, 30}}), doubtful(before, before, {{3, 5}}));
  EXPECT_EQ((BlockRanges{{9, 20}, {25, 40}}), doubtful(before, of(40, lay), {{25, 90}, {9, 12}}));
  EXPECT_EQ(
      (BlockRanges{{4, 30}}),
      doubtful(before, of(30, {{{0, 4}, 1 << 20}, {{4, 10}, 9 << 20}, {{20, 30}, (2 << 20) + kBlockSize}}),
               {}));
  const auto split = of(30, {{{0, 5}, 1 << 20}, {{5, 10}, (1 << 20) + 5 * kBlockSize}, {{20, 30}, 2 << 20}});
  EXPECT_EQ((BlockRanges{{10, 20}, {29, 30}}), doubtful(split, before, {}));
  EXPECT_EQ((BlockRanges{{0, 30}}), doubtful(of(30, {}), before, {}));
  EXPECT_EQ((BlockRanges{{4, 5}}), doubtful(before, of(5, lay), {}));
  EXPECT_EQ((BlockRanges{}), doubtful(before, of(0, lay), {}));
}

}  // namespace
}  // namespace migrate
