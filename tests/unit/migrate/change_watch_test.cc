#include "migrate/change_watch.h"

#include <linux/aio_abi.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/xattr.h>

#include <atomic>
#include <chrono>
#include <map>
#include <thread>

#include "base/log.h"
#include "migrate/tree_scan.h"
#include "tests/unit/base/namespace.h"
#include "tests/unit/migrate/tree_tools.h"

namespace migrate {
namespace {

using Node = TreeSnapshot::Node;

/// The root of a box, made as box/ makes it, and a watch on what lies below it.
class ChangeWatchTest : public TreeTest {
 protected:
  void SetUp() override {
    TreeTest::SetUp();
    if (IsSkipped()) return;
    base::enter_mount_namespace();
    for (const char* name : {"lower", "lower/dir", "lower/dir/sub", "lower/kept", "box", "work"})
      base::make_directories(in(name));
    for (const char* name : {"lower/file", "lower/gone", "lower/dir/a", "lower/dir/sub/b", "lower/kept/c"})
      base::write_file(in(name), std::string("of the template: ") + name + std::string(10'000, '.'));
    mount_ =
        base::Mount::make("overlay", in("box"), "overlay", 0,
                          std::format("lowerdir={},upperdir={},workdir={},xino=on,index=on,nfs_export=on",
                                      in("lower"), in("from"), in("work")));
    upper_ = base::open(from(), O_RDONLY | O_DIRECTORY);
    watch_ = ChangeWatch::start(upper_.get());
    ASSERT_TRUE(watch_);
  }
  [[nodiscard]] std::string in(const std::string& name) const { return directory_.path() + "/" + name; }
  [[nodiscard]] std::string box(const std::string& name) const { return in("box/") + name; }

  /// Does something in the box; what a scan then finds to be different, and the watch did not tell of.
  template <class Body>
  std::string untold(Body body) {
    watch_->take();
    TreeSnapshot before = scan_tree(upper_.get(), true, {});
    body();
    Changes changes = watch_->take();
    EXPECT_FALSE(changes.all);
    TreeSnapshot now = scan_tree(upper_.get(), true, {});
    std::string text;
    compare(before, 0, now, 0, "", changes, text);
    return text;
  }

  static void compare(const TreeSnapshot& before, uint32_t old, const TreeSnapshot& now, uint32_t at,
                      const std::string& path, const Changes& changes, std::string& text) {
    const Node &was = before.node(old), &is = now.node(at);
    bool same = was.ctime_ns == is.ctime_ns && was.mtime_ns == is.mtime_ns && was.size == is.size;
    if (!same && !is.whiteout && !changes.files.contains(is.ino)) text += path + " has changed\n";
    if (!S_ISDIR(is.mode) || !S_ISDIR(was.mode) || was.ino != is.ino) return;
    std::map<std::string, std::pair<uint32_t, uint32_t>> names;
    for (uint32_t i = was.first; i < was.first + was.count; ++i)
      names[std::string(before.name(before.node(i)))].first = i;
    for (uint32_t i = is.first; i < is.first + is.count; ++i)
      names[std::string(now.name(now.node(i)))].second = i;
    auto told = changes.names.find(is.ino);
    for (const auto& [name, nodes] : names) {
      bool other =
          nodes.first == 0 || nodes.second == 0 || before.node(nodes.first).ino != now.node(nodes.second).ino;
      if (other && (told == changes.names.end() || !told->second.contains(name)))
        text += path + "/" + name + " came, went or is another\n";
      if (nodes.first != 0 && nodes.second != 0 && !other)
        compare(before, nodes.first, now, nodes.second, path + "/" + name, changes, text);
    }
  }

  std::optional<base::Mount> mount_;
  base::Fd upper_;
  std::unique_ptr<ChangeWatch> watch_;
};

void append(int fd) { base::write_full(fd, std::string_view("more"), "file"); }

TEST_F(ChangeWatchTest, WhatABoxDoesIsTold) {
  EXPECT_EQ("", untold([&] { base::write_file(box("new"), "text"); }));
  base::Fd held = base::open(box("new"), O_RDWR);
  EXPECT_EQ("", untold([&] { append(held.get()); }));
  EXPECT_EQ("", untold([&] { ASSERT_EQ(0, ::ftruncate(held.get(), 2)); }));
  EXPECT_EQ("", untold([&] { ASSERT_EQ(0, ::truncate(box("new").c_str(), 20'000)); }));
  EXPECT_EQ("", untold([&] { ASSERT_EQ(0, ::posix_fallocate(held.get(), 0, 50'000)); }));
  EXPECT_EQ("", untold([&] {
              ASSERT_EQ(0, ::fallocate(held.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 8192));
            }));
  EXPECT_EQ("", untold([&] { ASSERT_EQ(0, ::fchmod(held.get(), 0640)); }));
  EXPECT_EQ("", untold([&] { ASSERT_EQ(0, ::chown(box("new").c_str(), 5, 6)); }));
  EXPECT_EQ("", untold([&] { ASSERT_EQ(0, ::setxattr(box("new").c_str(), "user.a", "b", 1, 0)); }));
  EXPECT_EQ("", untold([&] { ASSERT_EQ(0, ::removexattr(box("new").c_str(), "user.a")); }));
  EXPECT_EQ("", untold([&] {
              timespec times[2] = {{.tv_sec = 1, .tv_nsec = 2}, {.tv_sec = 3, .tv_nsec = 4}};
              ASSERT_EQ(0, ::utimensat(AT_FDCWD, box("new").c_str(), times, 0));
            }));
  EXPECT_EQ("", untold([&] { ASSERT_EQ(0, ::mkdir(box("made").c_str(), 0700)); }));
  EXPECT_EQ("", untold([&] { ASSERT_EQ(0, ::link(box("new").c_str(), box("made/second").c_str())); }));
  EXPECT_EQ("", untold([&] { ASSERT_EQ(0, ::symlink("new", box("made/symlink").c_str())); }));
  EXPECT_EQ("", untold([&] { ASSERT_EQ(0, ::mkfifo(box("made/pipe").c_str(), 0600)); }));
  EXPECT_EQ("", untold([&] { ASSERT_EQ(0, ::rename(box("new").c_str(), box("made/third").c_str())); }));
  EXPECT_EQ("", untold([&] { append(held.get()); }));
  EXPECT_EQ("", untold([&] { ASSERT_EQ(0, ::unlink(box("made/second").c_str())); }));
  EXPECT_EQ("", untold([&] { ASSERT_EQ(0, ::rename(box("made").c_str(), box("renamed").c_str())); }));
  EXPECT_EQ("", untold([&] { ASSERT_EQ(0, ::chmod(box("renamed").c_str(), 0711)); }));
  EXPECT_EQ("", untold([&] { ASSERT_EQ(0, ::setxattr(box("renamed").c_str(), "user.d", "x", 1, 0)); }));
  EXPECT_EQ("", untold([&] { base::remove_tree(box("renamed")); }));
}

TEST_F(ChangeWatchTest, WhatABoxDoesToItsTemplateIsTold) {
  EXPECT_EQ("", untold([&] { append(base::open(box("file"), O_WRONLY | O_APPEND).get()); }));
  EXPECT_EQ("", untold([&] { ASSERT_EQ(0, ::unlink(box("gone").c_str())); }));
  EXPECT_EQ("", untold([&] { base::write_file(box("gone"), "again"); }));
  EXPECT_EQ("", untold([&] { ASSERT_EQ(0, ::chmod(box("kept/c").c_str(), 0600)); }));
  EXPECT_EQ("", untold([&] { ASSERT_EQ(0, ::link(box("kept/c").c_str(), box("kept/d").c_str())); }));
  EXPECT_EQ("", untold([&] { append(base::open(box("kept/d"), O_WRONLY | O_APPEND).get()); }));
  EXPECT_EQ("", untold([&] { ASSERT_EQ(0, ::rename(box("kept/c").c_str(), box("kept/e").c_str())); }));
  EXPECT_EQ("", untold([&] { base::remove_tree(box("dir")); }));
  EXPECT_EQ("", untold([&] { ASSERT_EQ(0, ::mkdir(box("dir").c_str(), 0755)); }));
  EXPECT_EQ("", untold([&] { base::write_file(box("dir/a"), "another"); }));
  EXPECT_EQ("", untold([&] { ASSERT_EQ(0, ::rename(box("file").c_str(), box("dir/a").c_str())); }));
}

TEST_F(ChangeWatchTest, AFileThatGetsItsNameLateIsTold) {
  base::Fd nameless = base::open(in("box"), O_TMPFILE | O_RDWR);
  append(nameless.get());
  EXPECT_EQ("", untold([&] {
              ASSERT_EQ(0, ::linkat(AT_FDCWD, std::format("/proc/self/fd/{}", nameless.get()).c_str(),
                                    AT_FDCWD, box("named").c_str(), AT_SYMLINK_FOLLOW));
            }));
  EXPECT_EQ("", untold([&] { append(nameless.get()); }));
}

TEST_F(ChangeWatchTest, AsynchronousWritesAreToldAtTheLatestWhenTheFileIsClosed) {
  aio_context_t context = 0;
  ASSERT_EQ(0, ::syscall(SYS_io_setup, 4, &context));
  auto* piece = static_cast<char*>(std::aligned_alloc(4096, 4096));
  std::memset(piece, 'x', 4096);
  for (int direct : {0, O_DIRECT}) {
    base::Fd file = base::open(box("aio"), O_RDWR | O_CREAT | direct);
    auto submit = [&](int64_t offset) {
      iocb block{};
      block.aio_lio_opcode = IOCB_CMD_PWRITE;
      block.aio_fildes = static_cast<uint32_t>(file.get());
      block.aio_buf = reinterpret_cast<uint64_t>(piece);
      block.aio_nbytes = 4096;
      block.aio_offset = offset;
      iocb* blocks[] = {&block};
      ASSERT_EQ(1, ::syscall(SYS_io_submit, context, 1, blocks));
      io_event done{};
      ASSERT_EQ(1, ::syscall(SYS_io_getevents, context, 1, 1, &done, nullptr));
      ASSERT_EQ(4096, done.res);
    };
    submit(8192);
    // Nothing has to tell of a direct one while the file is open: on 6.18 its completion raises no event.
    if (direct == 0) {
      EXPECT_EQ("", untold([&] { submit(0); }));
    }
    EXPECT_EQ("", untold([&] {
                submit(4096);
                file.close();
                // Where the completion has the last reference, a kernel thread closes.
                std::this_thread::sleep_for(std::chrono::milliseconds(30));
              }));
  }
  std::free(piece);
  ::syscall(SYS_io_destroy, context);
}

/// What the watch cannot see, and what then tells of it.
TEST_F(ChangeWatchTest, StoresIntoAMappingAreToldWhenTheFileIsClosed) {
  base::write_file(box("mapped"), std::string(8192, 'a'));
  base::Fd file = base::open(box("mapped"), O_RDWR);
  auto* bytes = static_cast<char*>(::mmap(nullptr, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, file.get(), 0));
  ASSERT_NE(MAP_FAILED, bytes);
  file.close();
  EXPECT_EQ("/mapped has changed\n", untold([&] { bytes[0] = 'b'; }));
  EXPECT_EQ("", untold([&] {
              bytes[4096] = 'c';
              ::munmap(bytes, 8192);
            }));
}

TEST_F(ChangeWatchTest, FilesThatWereOpenBeforeAreTold) {
  base::write_file(box("early"), "text");
  base::Fd file = base::open(box("early"), O_WRONLY | O_APPEND);
  watch_.reset();
  watch_ = ChangeWatch::start(upper_.get());
  EXPECT_EQ("", untold([&] { append(file.get()); }));
}

/// Handles of files that are gone, or just going, are no reason to look at everything.
TEST_F(ChangeWatchTest, FilesThatComeAndGoAreNoDoubt) {
  base::set_verbose(true);  // says why
  std::atomic<bool> done = false;
  std::thread writer([&] {
    while (!done) {
      base::make_directories(box("busy/deeper"));
      for (int i = 0; i < 50; ++i) base::write_file(box(std::format("busy/deeper/{}", i)), "text");
      ::mknod(box("busy/node").c_str(), S_IFIFO | 0600, 0);
      EXPECT_EQ(0, ::rename(box("busy/deeper").c_str(), box("busy/other").c_str()));
      base::remove_tree(box("busy"));
    }
  });
  size_t told = 0;
  for (int i = 0; i < 50; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    Changes changes = watch_->take();
    EXPECT_FALSE(changes.all);
    told += changes.names.size();
  }
  done = true;
  writer.join();
  base::set_verbose(false);
  EXPECT_GT(told, 0);
}

TEST_F(ChangeWatchTest, EachChangeIsToldOnce) {
  base::write_file(box("file"), "text");
  struct stat file = {};
  ASSERT_EQ(0, ::stat(in("from/file").c_str(), &file));
  EXPECT_TRUE(watch_->take().files.contains(file.st_ino));
  const uint64_t taken = watch_->taken();
  // Other programs may use the same file system.
  Changes nothing = watch_->take();
  EXPECT_TRUE(!nothing.files.contains(file.st_ino) && !nothing.all);
  EXPECT_NE(taken, watch_->taken());
}

}  // namespace
}  // namespace migrate
