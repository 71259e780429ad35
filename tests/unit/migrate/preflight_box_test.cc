#include "migrate/preflight_box.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/bpf.h>
#include <linux/io_uring.h>
#include <netinet/in.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <iostream>
#include <string>

#include "base/error.h"
#include "boxed.h"

namespace migrate {
namespace {

// What no box can get any more, past its own filter of system calls (box/container.cc), but one that was
// started before it had the filter. All else is refused in tests/lab/test_move_kinds.py.

/// In an empty root of its own, with nothing open that lies outside.
bool enter_empty_root() {
  if (::unshare(CLONE_NEWNS) != 0 || ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
      ::mount("tmpfs", "/mnt", "tmpfs", 0, nullptr) != 0 || ::chdir("/mnt") != 0 ||
      ::syscall(SYS_pivot_root, ".", ".") != 0 || ::umount2(".", MNT_DETACH) != 0)
    return false;
  struct stat file{};
  for (int fd = 0; fd < 1024; ++fd)
    if (::fstat(fd, &file) == 0 && !S_ISFIFO(file.st_mode)) ::close(fd);  // the test's own pipes stay
  return true;
}

int with_io_uring(Boxed& box) {
  if (!enter_empty_root()) return 1;
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
  Boxed box(with_io_uring);
  ASSERT_TRUE(box.wait_step()) << box.wait();
  EXPECT_EQ(refusal(box), "");
  ASSERT_TRUE(box.next()) << box.wait();
  EXPECT_TRUE(refusal(box).contains("uses io_uring, which cannot be moved")) << refusal(box);
  EXPECT_TRUE(refusal(box).contains("stop and start the box")) << refusal(box);
  ASSERT_TRUE(box.next()) << box.wait();
  EXPECT_TRUE(refusal(box).contains("uses io_uring, which cannot be moved")) << refusal(box);
}

/// Something that a process can have, its descriptor or -1; and what is said of it.
struct Refused {
  const char* name;
  int (*open)();
  const char* said;
  bool everywhere = false;  ///< in every kernel
};

int open_device(unsigned high, unsigned low) {
  ::mknod("/device", S_IFCHR | 0600, makedev(high, low));
  return ::open("/device", O_RDONLY);
}

const Refused kRefused[] = {
    {"device", [] { return open_device(1, 11); }, "has the device /device open", true},  // kmsg
    {"fuse", [] { return open_device(10, 229); }, "has the device /device open"},
    {"kvm", [] { return open_device(10, 232); }, "has the device /device open"},
    {"tun", [] { return open_device(10, 200); }, "has the device /device open"},
    {"bpf",
     [] {
       bpf_attr map{};
       map.map_type = BPF_MAP_TYPE_ARRAY;
       map.key_size = map.value_size = 4;
       map.max_entries = 1;
       return static_cast<int>(::syscall(SYS_bpf, BPF_MAP_CREATE, &map, sizeof map));
     },
     "holds BPF maps or programs", true},
    {"mptcp", [] { return ::socket(AF_INET, SOCK_STREAM, IPPROTO_MPTCP); }, "uses multipath TCP"},
    {"af_alg", [] { return ::socket(AF_ALG, SOCK_SEQPACKET, 0); }, "uses the kernel's cryptography (AF_ALG)"},
    {"sctp", [] { return ::socket(AF_INET, SOCK_STREAM, IPPROTO_SCTP); }, "has a socket of IP protocol 132"},
};

TEST(PreflightBox, RefusesWhatNoBoxCanGet) {
  for (const Refused& refused : kRefused) {
    Boxed box([&](Boxed& self) {
      if (!enter_empty_root()) return 1;
      const int thing = refused.open();
      self.step();
      if (thing < 0) return 2;
      self.step();
      ::close(thing);
      self.step();
      return 0;
    });
    ASSERT_TRUE(box.wait_step()) << refused.name;
    const std::string said = refusal(box);
    if (!box.next()) {
      EXPECT_FALSE(refused.everywhere) << refused.name;
      std::cout << "this kernel has no " << refused.name << "\n";
      EXPECT_EQ(said, "") << refused.name;
      continue;
    }
    EXPECT_TRUE(said.contains(std::string(refused.said) + ", which cannot be moved")) << refused.name << said;
    ASSERT_TRUE(box.next()) << refused.name;
    EXPECT_EQ(refusal(box), "") << refused.name;
  }
}

}  // namespace
}  // namespace migrate
