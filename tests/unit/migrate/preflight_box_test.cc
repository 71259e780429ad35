#include "migrate/preflight_box.h"

#include <gtest/gtest.h>
#include <linux/io_uring.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <string>

#include "base/error.h"
#include "boxed.h"

namespace migrate {
namespace {

// What no box can get any more, past its own filter of system calls (box/container.cc), but one that was
// started before it had the filter. All else is refused in tests/lab/test_move_kinds.py.

/// In an empty root of its own, with nothing open that lies outside.
int like_a_box(Boxed& box) {
  if (::unshare(CLONE_NEWNS) != 0 || ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
      ::mount("tmpfs", "/mnt", "tmpfs", 0, nullptr) != 0 || ::chdir("/mnt") != 0 ||
      ::syscall(SYS_pivot_root, ".", ".") != 0 || ::umount2(".", MNT_DETACH) != 0)
    return 1;
  struct stat file{};
  for (int fd = 0; fd < 1024; ++fd)
    if (::fstat(fd, &file) == 0 && !S_ISFIFO(file.st_mode)) ::close(fd);  // the test's own pipes stay
  box.step();
  io_uring_params parameters{};
  const auto ring = static_cast<int>(::syscall(SYS_io_uring_setup, 8, &parameters));
  if (ring < 0) return 2;
  box.step();
  // Closed, it is still there as long as it is mapped.
  if (::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, ring, IORING_OFF_SQ_RING) == MAP_FAILED)
    return 3;
  ::close(ring);
  box.step();
  return 0;
}

std::string refusal(const Boxed& box) {
  box::Config config;
  config.name = "web1";
  try {
    require_movable(config, {box.pid()}, box.pid());
  } catch (const base::Error& e) {
    return e.render();
  }
  return "";
}

TEST(PreflightBox, RefusesIoUring) {
  Boxed box(like_a_box);
  ASSERT_TRUE(box.wait_step()) << box.wait();
  EXPECT_EQ(refusal(box), "");
  ASSERT_TRUE(box.next()) << box.wait();
  EXPECT_TRUE(refusal(box).contains("uses io_uring, which cannot be moved")) << refusal(box);
  EXPECT_TRUE(refusal(box).contains("stop and start the box")) << refusal(box);
  ASSERT_TRUE(box.next()) << box.wait();
  EXPECT_TRUE(refusal(box).contains("uses io_uring, which cannot be moved")) << refusal(box);
}

}  // namespace
}  // namespace migrate
