#include <sys/mman.h>
#include <sys/xattr.h>

#include <chrono>
#include <thread>

#include "tests/unit/base/namespace.h"
#include "tests/unit/migrate/tree_tools.h"

namespace migrate {
namespace {

/// So long that what was written before is no longer "just now" (20 ms), and not sent again for that.
void let_time_pass() { std::this_thread::sleep_for(std::chrono::milliseconds(30)); }

class TreeRounds : public TreeTest {};

TEST_F(TreeRounds, WhatDidNotChangeIsNotSentAgain) {
  ::mkdir(from("dir").c_str(), 0755);
  write("dir/file", "text");
  write("other", "text");
  let_time_pass();
  EXPECT_EQ(0, round().dirty);
  TreeStats stats = round();
  EXPECT_EQ(0, stats.entries);
  EXPECT_EQ(4, stats.scanned);
  EXPECT_EQ(10, stream_.size());  // magic, flags, end
  EXPECT_EQ("", trees_differ());
}

TEST_F(TreeRounds, OnlyWhatChangedIsSent) {
  ::mkdir(from("dir").c_str(), 0755);
  ::mkdir(from("untouched").c_str(), 0755);
  for (int i = 0; i < 100; ++i) write("dir/" + std::to_string(i), std::string(1000, 'a'));
  let_time_pass();
  round();
  write("dir/7", "changed");
  write("dir/new", "new");
  ::unlink(from("dir/8").c_str());
  ::chmod(from("dir/9").c_str(), 0600);
  TreeStats stats = final_round();
  EXPECT_EQ(4, stats.entries);  // dir, 7, 9, new
  EXPECT_EQ(1, stats.removed);
  EXPECT_EQ(7 + 3 + 1000, stats.bytes);
  EXPECT_EQ("", trees_differ());
}

TEST_F(TreeRounds, AChangeOfTheAccessTimeSendsNoContent) {
  write("file", std::string(1 << 20, 'a'));
  ::mkdir(from("dir").c_str(), 0755);
  let_time_pass();
  round();
  timespec times[] = {{.tv_sec = 5, .tv_nsec = 6}, {.tv_sec = 0, .tv_nsec = UTIME_OMIT}};
  // utimensat moves the ctime, too; reading moves the atime only.
  ASSERT_EQ(0, ::utimensat(AT_FDCWD, from("file").c_str(), times, 0));
  let_time_pass();
  round();
  EXPECT_EQ(1 << 20, base::read_file(from("file")).size());
  EXPECT_EQ(TreeStats().bytes, final_round().bytes);
  EXPECT_EQ("", trees_differ());
}

TEST_F(TreeRounds, KindsReplaceEachOther) {
  const std::vector<std::string> names = {"a", "b", "c", "d", "e"};
  auto make = [&](const std::string& name, size_t kind) {
    base::remove_tree(from(name));
    switch (kind % 5) {
      case 0:
        write(name, "text " + name);
        break;
      case 1:
        ::mkdir(from(name).c_str(), 0700);
        ::mkdir(from(name + "/deeper").c_str(), 0700);
        write(name + "/deeper/file", "in it");
        break;
      case 2:
        EXPECT_EQ(0, ::symlink("target", from(name).c_str()));
        break;
      case 3:
        EXPECT_EQ(0, ::mknod(from(name).c_str(), S_IFCHR, 0));
        break;
      default:
        EXPECT_EQ(0, ::mkfifo(from(name).c_str(), 0600));
        break;
    }
  };
  for (size_t shift = 0; shift < 6; ++shift) {
    for (size_t i = 0; i < names.size(); ++i) make(names[i], i * (shift + 1) + shift);
    final_round();
    EXPECT_EQ("", trees_differ()) << shift;
  }
}

TEST_F(TreeRounds, DirectoriesMove) {
  ::mkdir(from("a").c_str(), 0700);
  ::mkdir(from("b").c_str(), 0700);
  ::mkdir(from("a/x").c_str(), 0700);
  write("a/x/file", "text");
  round();
  ASSERT_EQ(0, ::rename(from("a/x").c_str(), from("b/x").c_str()));
  ASSERT_EQ(0, ::rename(from("a").c_str(), from("c").c_str()));
  ASSERT_EQ(0, ::rename(from("b").c_str(), from("a").c_str()));
  round();
  EXPECT_EQ("", trees_differ());
}

TEST_F(TreeRounds, AllNamesOfAFileStayNamesOfOneFile) {
  ::mkdir(from("dir").c_str(), 0700);
  write("a", "one");
  ASSERT_EQ(0, ::link(from("a").c_str(), from("dir/b").c_str()));
  ASSERT_EQ(0, ::link(from("a").c_str(), from("z").c_str()));
  let_time_pass();
  EXPECT_EQ(3, round().bytes);
  EXPECT_EQ("", trees_differ());
  // The content changes in place; a name comes; a name goes; one becomes a file of its own.
  base::write_full(base::open(from("z"), O_WRONLY | O_APPEND).get(), std::string_view(" two"), "z");
  let_time_pass();
  EXPECT_EQ(7, round().bytes);
  EXPECT_EQ("", trees_differ());
  ASSERT_EQ(0, ::link(from("a").c_str(), from("dir/c").c_str()));
  round();
  EXPECT_EQ("", trees_differ());
  ::unlink(from("a").c_str());
  round();
  EXPECT_EQ("", trees_differ());
  ::unlink(from("z").c_str());
  write("z", "of its own");
  final_round();
  EXPECT_EQ("", trees_differ());
}

TEST_F(TreeRounds, ALinkThatNobodyElseSees) {
  // With index=on overlayfs holds one more link to every file it copied up, outside the upper directory.
  write("a", "text");
  ASSERT_EQ(0, ::link(from("a").c_str(), (directory_.path() + "/index").c_str()));
  final_round();
  EXPECT_EQ(4, base::read_file(to("a")).size());
  struct stat status;
  ASSERT_EQ(0, ::stat(to("a").c_str(), &status));
  EXPECT_EQ(1, status.st_nlink);
}

TEST_F(TreeRounds, WhiteoutsAreSharedAndNotSentAgain) {
  ASSERT_EQ(0, ::mknod(from("w0").c_str(), S_IFCHR, 0));
  for (int i = 1; i < 100; ++i)
    ASSERT_EQ(0, ::link(from("w0").c_str(), from("w" + std::to_string(i)).c_str()));
  let_time_pass();
  EXPECT_EQ(100, round().entries);
  EXPECT_EQ("", trees_differ());
  struct stat status;
  ASSERT_EQ(0, ::lstat(to("w50").c_str(), &status));
  EXPECT_EQ(100, status.st_nlink);
  ASSERT_EQ(0, ::link(from("w0").c_str(), from("one-more").c_str()));
  EXPECT_EQ(1, final_round().entries);
  EXPECT_EQ("", trees_differ());
}

TEST_F(TreeRounds, AnAclOfADirectoryIsNotInheritedOnTheWay) {
  ::mkdir(from("dir").c_str(), 0755);
  std::string_view acl(
      "\x02\x00\x00\x00"
      "\x01\x00\x07\x00\xff\xff\xff\xff"
      "\x02\x00\x05\x00\xe8\x03\x00\x00"
      "\x04\x00\x05\x00\xff\xff\xff\xff"
      "\x10\x00\x05\x00\xff\xff\xff\xff"
      "\x20\x00\x00\x00\xff\xff\xff\xff",
      44);
  round();
  write("dir/without", "");  // before the directory has its ACL
  ASSERT_EQ(0, ::setxattr(from("dir").c_str(), "system.posix_acl_default", acl.data(), acl.size(), 0));
  ASSERT_EQ(0, ::setxattr(to("dir").c_str(), "system.posix_acl_default", acl.data(), acl.size(), 0));
  round();
  EXPECT_EQ("", trees_differ());
  ASSERT_EQ(0, ::removexattr(from("dir").c_str(), "system.posix_acl_default"));
  ASSERT_EQ(0, ::setxattr(from("dir").c_str(), "user.new", "x", 1, 0));
  round();
  EXPECT_EQ("", trees_differ());
  ASSERT_EQ(0, ::removexattr(from("dir").c_str(), "user.new"));
  round();
  EXPECT_EQ("", trees_differ());
}

/// A store into a page that is dirty already moves no time: only the sender's own rule finds it.
TEST_F(TreeRounds, StoresThroughASharedMappingAreCarried) {
  write("mapped", std::string(64 << 10, 'a'));
  base::Fd file = base::open(from("mapped"), O_RDWR);
  auto* bytes =
      static_cast<char*>(::mmap(nullptr, 64 << 10, PROT_READ | PROT_WRITE, MAP_SHARED, file.get(), 0));
  ASSERT_NE(MAP_FAILED, bytes);
  bytes[0] = '0';  // the page is dirty, and writable
  for (int i = 1; i < 20; ++i) {
    // The page is touched again between syncfs and the scan or after it, as it comes.
    std::jthread store([&] {
      std::this_thread::sleep_for(std::chrono::microseconds(i * 300));
      bytes[i] = 'b';
      bytes[4096 * (i % 16)] = 'c';
    });
    round();
    store.join();
    bytes[i + 100] = 'd';
  }
  bytes[1000] = 'e';
  final_round();
  EXPECT_EQ("", trees_differ());
  ::munmap(bytes, 64 << 10);
}

TEST_F(TreeRounds, WhatIsWrittenWhileItIsScannedIsDirty) {
  write("file", "text");
  EXPECT_EQ(1, round().dirty);  // its ctime is not older than the round
  let_time_pass();
  TreeStats stats = round();
  EXPECT_EQ(4, stats.bytes);
  EXPECT_EQ(0, stats.dirty);
  EXPECT_EQ(0, round().bytes);
}

TEST_F(TreeRounds, FilesNamedByTheCallerAreSentAlways) {
  write("mapped", "text");
  write("other", "text");
  let_time_pass();
  round();
  struct stat status;
  ASSERT_EQ(0, ::stat(from("mapped").c_str(), &status));
  TreeStats stats = round({.final = true, .always = {{status.st_dev, status.st_ino}}});
  EXPECT_EQ(4, stats.bytes);
  EXPECT_EQ(0, round({.final = true, .always = {{status.st_dev + 1, status.st_ino}}}).bytes);
}

/// Writes into the tree at a moment that only the sender's side knows: when its first bytes leave.
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

TEST_F(TreeRounds, ChangesWhileItIsReadAreFineUntilTheFinalRound) {
  for (char c = 'a'; c <= 'j'; ++c) write(std::string(1, c), std::string(100'000, c));
  ::mkdir(from("x").c_str(), 0700);
  write("x/file", "in x");
  ::mkdir(from("y").c_str(), 0700);
  write("y/file", "in y");
  auto meddle = [&] {
    write("c", "shorter");
    ::unlink(from("d").c_str());
    ::unlink(from("e").c_str());
    ::mkdir(from("e").c_str(), 0700);
    ::unlink(from("f").c_str());
    EXPECT_EQ(0, ::symlink("/etc/passwd", from("f").c_str()));
    base::remove_tree(from("x"));
    base::remove_tree(from("y"));
    write("y", "now a file");
    ::unlink(from("g").c_str());
    EXPECT_EQ(0, ::link(from("h").c_str(), from("g").c_str()));
    EXPECT_EQ(0, ::mkfifo(from("b-pipe").c_str(), 0600));
  };
  auto send = [&](SendOptions options) {
    Meddler stream(meddle);
    base::Fd source = base::open(from(), O_RDONLY), destination = base::open(to(), O_RDONLY);
    send_tree(source.get(), stream, last_, options);
    receive_tree(destination.get(), stream);
  };
  send({});
  round();
  EXPECT_EQ("", trees_differ());

  base::remove_tree(from());
  base::make_directories(from());
  for (char c = 'a'; c <= 'j'; ++c) write(std::string(1, c), std::string(100'000, c));
  EXPECT_EQ("/c changed while the box was frozen", error_of([&] { send({.final = true}); }));
}

TEST_F(TreeRounds, AFailedRoundIsForgotten) {
  write("a", "text");
  let_time_pass();
  round();
  write("b", std::string(100'000, 'b'));
  class Full : public Sink {
    void write(std::span<const std::byte>) override { throw base::error("the sink is full"); }
  } full;
  base::Fd source = base::open(from(), O_RDONLY);
  EXPECT_EQ("the sink is full", error_of([&] { send_tree(source.get(), full, last_); }));
  EXPECT_EQ(2, last_.size());  // the root and a
}

TEST_F(TreeRounds, AFullDiskIsSaidInPlainWords) {
  base::enter_mount_namespace();
  base::Mount small = base::Mount::make("tmpfs", to(), "tmpfs", 0, "size=1m");
  write("big", std::string(4 << 20, 'x'));
  EXPECT_EQ("cannot write /big: the disk of this node is full", error_of([&] { round(); }));
}

}  // namespace
}  // namespace migrate
