#include "migrate/tree.h"

#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/xattr.h>

#include <chrono>
#include <thread>

#include "tests/unit/base/namespace.h"
#include "tests/unit/migrate/tree_tools.h"

namespace migrate {
namespace {

using base::sys_error;

class Tree : public TreeTest {
 protected:
  void set_xattr(const std::string& name, const char* key, std::string_view value) const {
    if (::lsetxattr(from(name).c_str(), key, value.data(), value.size(), 0) != 0)
      throw sys_error("lsetxattr {} {}", name, key);
  }
  void set_times(const std::string& name, timespec atime, timespec mtime) const {
    timespec times[] = {atime, mtime};
    if (::utimensat(AT_FDCWD, from(name).c_str(), times, AT_SYMLINK_NOFOLLOW) != 0)
      throw sys_error("utimensat {}", name);
  }
  void make_node(const std::string& name, mode_t mode, dev_t device = 0) const {
    if (::mknod(from(name).c_str(), mode, device) != 0) throw sys_error("mknod {}", name);
  }
  [[nodiscard]] std::string refusal() {
    return error_of([&] { round(); });
  }
  static constexpr std::string_view kAcl{
      "\x02\x00\x00\x00"                  // version
      "\x01\x00\x07\x00\xff\xff\xff\xff"  // owner rwx
      "\x02\x00\x05\x00\xe8\x03\x00\x00"  // user 1000 r-x
      "\x04\x00\x05\x00\xff\xff\xff\xff"  // group r-x
      "\x10\x00\x05\x00\xff\xff\xff\xff"  // mask r-x
      "\x20\x00\x00\x00\xff\xff\xff\xff",
      4 + 5 * 8};
};

TEST_F(Tree, EveryKindOfFileArrivesAsItIs) {
  write("plain", "some text");
  write("empty", "");
  ::mkdir(from("dir").c_str(), 0755);
  write("dir/inside", std::string(3 << 20, 'x'));
  ::mkdir(from("dir/empty").c_str(), 0711);
  ASSERT_EQ(0, ::symlink("../somewhere/else", from("dir/symlink").c_str()));
  make_node("pipe", S_IFIFO | 0640);
  make_node("dir/whiteout", S_IFCHR, 0);
  base::Fd listener(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = {}};
  std::string socket_path = from("socket");
  ASSERT_LT(socket_path.size(), sizeof address.sun_path);
  std::strcpy(address.sun_path, socket_path.c_str());
  ASSERT_EQ(0, ::bind(listener.get(), reinterpret_cast<sockaddr*>(&address), sizeof address));
  ASSERT_EQ(0, ::link(from("plain").c_str(), from("dir/second-name").c_str()));
  ASSERT_EQ(0, ::linkat(AT_FDCWD, from("dir/symlink").c_str(), AT_FDCWD, from("symlink2").c_str(), 0));
  ASSERT_EQ(0, ::link(from("pipe").c_str(), from("pipe2").c_str()));

  set_xattr("plain", "user.note", "of the user");
  set_xattr("plain", "trusted.note", std::string("with\0a NUL", 10));
  set_xattr("plain", "user.empty", "");
  set_xattr("dir/inside", "system.posix_acl_access", kAcl);
  set_xattr("dir", "system.posix_acl_default", kAcl);
  set_xattr("dir", "trusted.overlay.opaque", "y");
  set_xattr("dir/empty", "trusted.overlay.redirect", "/old/place");
  set_xattr("dir/symlink", "trusted.on-a-symlink", "yes");
  set_xattr(".", "user.root", "of the tree");
  // cap_net_bind_service=ep, as setcap(8) writes it.
  std::string_view capability(
      "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00", 20);
  ASSERT_EQ(0, ::chown(from("empty").c_str(), 1000, 1001));
  ASSERT_EQ(0, ::chmod(from("empty").c_str(), 06755));
  set_xattr("empty", "security.capability", capability);
  ASSERT_EQ(0, ::lchown(from("dir/symlink").c_str(), 12, 34));
  ASSERT_EQ(0, ::chown(from("dir/empty").c_str(), 4000000000, 65534));
  ASSERT_EQ(0, ::chmod(from("dir/empty").c_str(), 03777));
  ASSERT_EQ(0, ::chmod(from().c_str(), 0751));
  for (const char* name : {"plain", "pipe", "dir/symlink", "dir/whiteout", "socket", "dir/empty", "dir", "."})
    set_times(name, {.tv_sec = 1'000'000'000, .tv_nsec = 123'456'789},
              {.tv_sec = -1, .tv_nsec = 999'999'999});

  EXPECT_EQ(12, round().entries);
  EXPECT_EQ("", trees_differ());
  final_round();
  EXPECT_EQ("", trees_differ());
}

TEST_F(Tree, WhatBelongsToOneOverlayMountStaysBehind) {
  write("file", "text");
  for (const char* name : {"origin", "impure", "nlink", "upper", "uuid"}) {
    set_xattr("file", (std::string("trusted.overlay.") + name).c_str(), "x");
    set_xattr(".", (std::string("trusted.overlay.") + name).c_str(), "x");
  }
  for (const char* name : {"opaque", "redirect", "whiteout", "whiteouts", "protattr"})
    set_xattr("file", (std::string("trusted.overlay.") + name).c_str(), "y");
  final_round();
  std::string names(4096, '\0');
  ssize_t size = ::listxattr(to("file").c_str(), names.data(), names.size());
  EXPECT_EQ(5 * std::strlen("trusted.overlay.") + std::strlen("opaque-redirect-whiteout-whiteouts-protattr-"),
            size);
  EXPECT_EQ(0, ::listxattr(to().c_str(), names.data(), names.size()));
  EXPECT_EQ("", trees_differ());
}

TEST_F(Tree, AFileOfMetadataOnlyIsRefusedByName) {
  write("file", "");
  set_xattr("file", "trusted.overlay.metacopy", "");
  EXPECT_EQ("/file holds no content of its own, only metadata (overlay.metacopy)", refusal());
}

TEST_F(Tree, AFileWithFurtherNamesInItsTemplateIsRefusedByName) {
  write("file", "");
  set_xattr("file", "trusted.overlay.nlink", "U+1");  // one name here, two in the merged tree
  std::this_thread::sleep_for(std::chrono::milliseconds(30));
  EXPECT_EQ(
      "/file has further names in its template, which would no longer be the same file on the other node",
      refusal());
  ASSERT_EQ(0, ::link(from("file").c_str(), from("second").c_str()));
  set_xattr("file", "trusted.overlay.nlink", "U+0");
  std::this_thread::sleep_for(std::chrono::milliseconds(30));
  EXPECT_EQ("no error", refusal());
}

TEST_F(Tree, ADeviceIsRefusedByName) {
  make_node("null", S_IFCHR | 0666, makedev(1, 3));
  EXPECT_EQ("/null is a device node, which a box cannot make: it is not taken along", refusal());
}

TEST_F(Tree, NamesMayHaveAnyByte) {
  std::string all;
  for (int c = 1; c < 256; ++c)
    if (c != '/') all += static_cast<char>(c);
  write(all, "254 bytes");
  write(std::string(255, 'n'), "255 bytes");
  write("with\nnewline", "");
  write("latin1 \xe4", "");
  write("...", "");
  write(" ", "");
  ::mkdir(from("\xff\xfe").c_str(), 0700);
  write("\xff\xfe/-rf", "");
  ASSERT_EQ(0, ::symlink("\n\xff", from("-symlink").c_str()));
  final_round();
  EXPECT_EQ("", trees_differ());
}

TEST_F(Tree, HolesStayHoles) {
  constexpr off_t kBig = off_t{5} << 40;
  base::Fd file = base::open(from("sparse"), O_RDWR | O_CREAT, 0600);
  for (off_t at : {off_t{0}, off_t{100} << 12, off_t{3} << 30, kBig - 5})
    ASSERT_EQ(5, ::pwrite(file.get(), "data!", 5, at));
  file = base::open(from("only-a-hole"), O_RDWR | O_CREAT, 0600);
  ASSERT_EQ(0, ::ftruncate(file.get(), 1LL << 40));
  file = base::open(from("zeros"), O_RDWR | O_CREAT, 0600);  // written, so not a hole
  base::write_full(file.get(), std::string(1 << 20, '\0'), "zeros");
  file = base::open(from("hole-at-end"), O_RDWR | O_CREAT, 0600);
  base::write_full(file.get(), "text", "hole-at-end");
  ASSERT_EQ(0, ::ftruncate(file.get(), 1 << 20));
  TreeStats stats = final_round();
  EXPECT_LT(stats.bytes, 2 << 20);
  EXPECT_EQ("", trees_differ());
  ::sync();
  for (const char* name : {"sparse", "only-a-hole", "zeros", "hole-at-end"}) {
    struct stat want, got;
    ASSERT_EQ(0, ::stat(from(name).c_str(), &want));
    ASSERT_EQ(0, ::stat(to(name).c_str(), &got));
    EXPECT_EQ(want.st_blocks, got.st_blocks) << name;
  }
}

TEST_F(Tree, DirectoriesNestDeeperThanAPathIsLong) {
  // 1,100 levels are 12 KiB of path: made and looked at by descriptors.
  auto walk = [](const std::string& root, bool make, unsigned depth) {
    base::Fd at = base::open(root, O_RDONLY | O_DIRECTORY);
    unsigned level = 0;
    for (; level < depth; ++level) {
      if (make && ::mkdirat(at.get(), "directory0", 0700) != 0) throw sys_error("mkdir");
      if (make) static_cast<void>(base::open_at(at.get(), "beside", O_WRONLY | O_CREAT, 0600));
      base::Fd next(::openat(at.get(), "directory0", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
      if (!next || ::faccessat(at.get(), "beside", F_OK, 0) != 0) break;
      at = std::move(next);
    }
    return level;
  };
  rlimit few;
  ASSERT_EQ(0, ::getrlimit(RLIMIT_NOFILE, &few));
  few.rlim_cur = 200;
  ASSERT_EQ(0, ::setrlimit(RLIMIT_NOFILE, &few));
  walk(from(), true, 1100);
  EXPECT_EQ(2200, final_round().entries);
  EXPECT_EQ(1100, walk(to(), false, 1200));
  // All of it is replaced by a file of the same name.
  base::remove_tree(from("directory0"));
  write("directory0", "now a file");
  final_round();
  EXPECT_EQ("", trees_differ());

  ::unlink(from("directory0").c_str());
  walk(from(), true, 2060);
  std::string said = error_of([&] { final_round(); });
  EXPECT_TRUE(said.ends_with("is nested deeper than 2048 directories, more than a box can take along"))
      << said;
}

TEST_F(Tree, AMountInTheTreeIsRefusedByName) {
  base::enter_mount_namespace();
  ::mkdir(from("proc").c_str(), 0700);
  base::Mount mount = base::Mount::make("proc", from("proc"), "proc", 0);
  EXPECT_EQ("something is mounted at /proc", refusal());
}

TEST_F(Tree, RoundZeroWantsAnEmptyDirectory) {
  base::write_file(to("left-over"), "");
  EXPECT_EQ("the directory to receive into is not empty: it has left-over", refusal());
}

TEST_F(Tree, SyncsWhatWasReceived) {
  base::Fd root = base::open(to(), O_RDONLY | O_DIRECTORY);
  EXPECT_EQ("no error", error_of([&] { sync_tree(root.get()); }));
  EXPECT_NE("no error", error_of([&] { sync_tree(-1); }));
}

TEST_F(Tree, StopsWhenAskedTo) {
  write("file", "text");
  auto stop = [] { throw base::error("stopped"); };
  EXPECT_EQ("stopped", error_of([&] { round({.check = stop}); }));
  MemoryStream stream;
  base::Fd source = base::open(from(), O_RDONLY), destination = base::open(to(), O_RDONLY);
  send_tree(source.get(), stream, last_);
  EXPECT_EQ("stopped", error_of([&] { receive_tree(destination.get(), stream, {.check = stop}); }));
}

TEST_F(Tree, TellsItsProgress) {
  write("a", std::string(1 << 20, 'a'));
  write("b", std::string(1 << 20, 'b'));
  ASSERT_EQ(0, ::link(from("a").c_str(), from("c").c_str()));
  uint64_t done = 0, total = 0;
  round({.progress = [&](uint64_t d, uint64_t t) {
    EXPECT_LE(done, d);
    done = d, total = t;
  }});
  EXPECT_EQ(2 << 20, done);
  EXPECT_EQ(2 << 20, total);
}

}  // namespace
}  // namespace migrate
