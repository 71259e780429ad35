// What cannot be moved, or what a box cannot have in the first place.
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/io_uring.h>
#include <linux/landlock.h>
#include <linux/netlink.h>
#include <linux/perf_event.h>
#include <linux/rtnetlink.h>
#include <linux/userfaultfd.h>
#include <netinet/in.h>
#include <pty.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kinds.h"

namespace {

const Check kStillThere = [] {};

int call(long number, auto... arguments) {
  return static_cast<int>(must(syscall(number, arguments...), "system call"));
}

Check io_uring() {
  io_uring_params parameters{};
  const int fd = call(SYS_io_uring_setup, 8, &parameters);
  return [=] { must(fcntl(fd, F_GETFD), "the ring"); };
}

/// Only the mapping is left.
Check io_uring_mapped() {
  io_uring_params parameters{};
  const int fd = call(SYS_io_uring_setup, 8, &parameters);
  must_map(mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, IORING_OFF_SQ_RING), "mmap");
  close(fd);
  return kStillThere;
}

Check user_fault() {
  const int fd = call(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);
  return [=] { must(fcntl(fd, F_GETFD), "the descriptor"); };
}

Check perf_event() {
  perf_event_attr attributes{};
  attributes.type = PERF_TYPE_SOFTWARE;
  attributes.size = sizeof attributes;
  attributes.config = PERF_COUNT_SW_PAGE_FAULTS;
  attributes.exclude_kernel = attributes.exclude_hv = 1;
  const int fd = call(SYS_perf_event_open, &attributes, 0, -1, -1, 0);
  return [=] { must(fcntl(fd, F_GETFD), "the counter"); };
}

Check bpf_map() {
  bpf_attr attributes{};
  attributes.map_type = BPF_MAP_TYPE_ARRAY;
  attributes.key_size = attributes.value_size = attributes.max_entries = 4;
  call(SYS_bpf, BPF_MAP_CREATE, &attributes, sizeof attributes);
  return kStillThere;
}

Check traced() {
  const pid_t pid = child([] {
    for (;;) pause();
  });
  must(ptrace(PTRACE_SEIZE, pid, nullptr, nullptr), "PTRACE_SEIZE");
  return [=] { same(waitpid(pid, nullptr, WNOHANG), pid_t{0}, "the end of the traced"); };
}

/// A namespace of a child's own.
pid_t apart(int flags) {
  int ready[2];
  must(pipe(ready), "pipe");
  const pid_t pid = child([=] {
    must(unshare(flags), "unshare");
    if (flags & CLONE_NEWPID) {
      child([=] {
        write_all(ready[1], "x");
        for (;;) pause();
      });
    } else {
      write_all(ready[1], "x");
    }
    for (;;) pause();
  });
  close(ready[1]);
  if (read_some(ready[0]) != "x") throw Failed{read_file("child.says")};
  close(ready[0]);
  return pid;
}

Check still_apart(int flags) {
  return [pid = apart(flags)] { same(waitpid(pid, nullptr, WNOHANG), pid_t{0}, "its end"); };
}

Check user_namespace() { return still_apart(CLONE_NEWUSER); }
Check pid_namespace() { return still_apart(CLONE_NEWPID); }
Check net_namespace() { return still_apart(CLONE_NEWNET); }
Check uts_namespace() { return still_apart(CLONE_NEWUTS); }
Check ipc_namespace() { return still_apart(CLONE_NEWIPC); }
Check time_namespace() { return still_apart(CLONE_NEWTIME); }

/// A namespace that only a descriptor keeps.
Check held_namespace() {
  const pid_t pid = apart(CLONE_NEWNET);
  must(open(("/proc/" + std::to_string(pid) + "/ns/net").c_str(), O_RDONLY), "ns/net");
  kill(pid, SIGKILL);
  wait_for(pid);
  return kStillThere;
}

Check landlock() {
  landlock_ruleset_attr attributes{};
  attributes.handled_access_fs = LANDLOCK_ACCESS_FS_MAKE_SOCK;
  const int rules = call(SYS_landlock_create_ruleset, &attributes, sizeof attributes, 0);
  must(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "NO_NEW_PRIVS");
  call(SYS_landlock_restrict_self, rules, 0);
  close(rules);
  return [] { require(mknod("socket", S_IFSOCK | 0600, 0) != 0 && errno == EACCES, "the rules are gone"); };
}

Check landlock_rules() {
  landlock_ruleset_attr attributes{};
  attributes.handled_access_fs = LANDLOCK_ACCESS_FS_MAKE_SOCK;
  call(SYS_landlock_create_ruleset, &attributes, sizeof attributes, 0);
  return kStillThere;
}

Check secret_memory() {
  const int fd = call(SYS_memfd_secret, 0);
  must(ftruncate(fd, 4096), "ftruncate");
  auto* at =
      static_cast<char*>(must_map(mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), "mmap"));
  at[0] = 's';
  return [=] { same(at[0], 's', "the secret"); };
}

Check crypto_socket() {
  must(socket(AF_ALG, SOCK_SEQPACKET, 0), "AF_ALG");
  return kStillThere;
}

Check vsock() {
  must(socket(AF_VSOCK, SOCK_STREAM, 0), "AF_VSOCK");
  return kStillThere;
}

Check device_node() {
  must(mknod("tun", S_IFCHR | 0600, makedev(10, 200)), "mknod");
  return kStillThere;
}

Check fuse() {
  must(open("/dev/fuse", O_RDWR), "/dev/fuse");
  return kStillThere;
}

Check overlay_mount() {
  for (const char* name : {"lower", "upper", "work", "merged"}) mkdir(name, 0755);
  must(mount("tmpfs", "upper", "tmpfs", 0, nullptr), "tmpfs");
  for (const char* name : {"upper/upper", "upper/work"}) mkdir(name, 0755);
  must(mount("overlay", "merged", "overlay", 0,
             "lowerdir=lower,upperdir=upper/upper,workdir=upper/work,userxattr"),
       "mount overlay");
  write_file("merged/file", "text");
  return [] { same(read_file("merged/file"), "text", "a file on it"); };
}

/// More than CRIU takes.
Check deleted_huge() {
  const int fd = must(open("huge", O_RDWR | O_CREAT, 0600), "huge");
  must(fallocate(fd, 0, 0, 4100L << 20), "fallocate");
  must(unlink("huge"), "unlink");
  return kStillThere;
}

Check deleted_mapped_huge() {
  const int fd = must(open("huge", O_RDWR | O_CREAT, 0600), "huge");
  must(fallocate(fd, 0, 0, 4100L << 20), "fallocate");
  must_map(mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), "mmap");
  must(unlink("huge"), "unlink");
  close(fd);
  return kStillThere;
}

Check open_tree_fd() {
  call(SYS_open_tree, AT_FDCWD, "/run", 1 /* OPEN_TREE_CLONE */);
  return kStillThere;
}

Check inet_tcp_repair() {
  const int fd = must(socket(AF_INET, SOCK_SEQPACKET, 132 /* SCTP */), "SCTP");
  (void)fd;
  return kStillThere;
}

/// A message that waits and says who sent it.
Check unix_credentials() {
  int pair[2];
  must(socketpair(AF_UNIX, SOCK_DGRAM, 0, pair), "socketpair");
  const int on = 1;
  must(setsockopt(pair[1], SOL_SOCKET, SO_PASSCRED, &on, sizeof on), "SO_PASSCRED");
  write_all(pair[0], "who");
  return [=] {
    same(read_some(pair[1]), "who", "the message");
    write_all(pair[0], "who");
  };
}

/// A connection that nobody accepts, with something in it already.
Check unix_unaccepted() {
  sockaddr_un at{};
  at.sun_family = AF_UNIX;
  std::strcpy(at.sun_path, "never");
  unlink("never");
  const int listener = must(socket(AF_UNIX, SOCK_STREAM, 0), "socket"),
            near = must(socket(AF_UNIX, SOCK_STREAM, 0), "socket");
  must(bind(listener, reinterpret_cast<sockaddr*>(&at), sizeof at), "bind");
  must(listen(listener, 5), "listen");
  must(connect(near, reinterpret_cast<sockaddr*>(&at), sizeof at), "connect");
  write_all(near, "early");
  return kStillThere;
}

Check netlink_unread() {
  const int fd = must(socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE), "socket");
  struct {
    nlmsghdr header{.nlmsg_len = sizeof(nlmsghdr) + sizeof(rtgenmsg),
                    .nlmsg_type = RTM_GETLINK,
                    .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP,
                    .nlmsg_seq = 1,
                    .nlmsg_pid = 0};
    rtgenmsg body{};
  } request;
  must(send(fd, &request, request.header.nlmsg_len, 0), "send");
  return [=] { must(fcntl(fd, F_GETFD), "the socket"); };
}

Check ping_socket() {
  must(socket(AF_INET, SOCK_DGRAM, IPPROTO_ICMP), "socket");
  return kStillThere;
}

/// As an interactive dash has it.
Check dev_tty() {
  int master = 0;
  const pid_t pid = must(forkpty(&master, nullptr, nullptr, nullptr), "forkpty");
  if (pid == 0) {
    open("/dev/tty", O_RDWR);
    for (;;) pause();
  }
  usleep(200000);
  return [=] { same(waitpid(pid, nullptr, WNOHANG), pid_t{0}, "its end"); };
}

Check mounted(const char* type, const char* options = nullptr) {
  mkdir("at", 0755);
  must(mount(type, "at", type, 0, options), std::string("mount ") + type);
  return kStillThere;
}
Check cgroup_mount() { return mounted("cgroup2"); }
Check ramfs_mount() { return mounted("ramfs"); }
Check proc_mount() { return mounted("proc"); }
Check sysfs_mount() { return mounted("sysfs"); }
Check devpts_mount() { return mounted("devpts", "newinstance"); }
Check mqueue_mount() { return mounted("mqueue"); }

/// A vfork(2) whose child has not called exec yet: its parent hangs in the call, and nothing can make it do
/// so again.
Check vforked() {
  child([] {
    const pid_t pid = vfork();  // NOLINT
    if (pid == 0)
      for (;;) pause();
  });
  usleep(200000);
  return kStillThere;
}

}  // namespace

const Kind kRefusedKinds[] = {{"io-uring", io_uring},
                              {"io-uring-mapped", io_uring_mapped},
                              {"userfaultfd", user_fault},
                              {"perf-event", perf_event},
                              {"bpf-map", bpf_map},
                              {"traced", traced},
                              {"user-namespace", user_namespace},
                              {"pid-namespace", pid_namespace},
                              {"net-namespace", net_namespace},
                              {"uts-namespace", uts_namespace},
                              {"ipc-namespace", ipc_namespace},
                              {"time-namespace", time_namespace},
                              {"held-namespace", held_namespace},
                              {"landlock", landlock},
                              {"landlock-rules", landlock_rules},
                              {"secret-memory", secret_memory},
                              {"crypto-socket", crypto_socket},
                              {"vsock", vsock},
                              {"device-node", device_node},
                              {"fuse", fuse},
                              {"overlay-mount", overlay_mount},
                              {"deleted-huge", deleted_huge},
                              {"deleted-mapped-huge", deleted_mapped_huge},
                              {"open-tree", open_tree_fd},
                              {"sctp", inet_tcp_repair},
                              {"vfork", vforked},
                              {"unix-credentials", unix_credentials},
                              {"unix-unaccepted", unix_unaccepted},
                              {"netlink-unread", netlink_unread},
                              {"ping-socket", ping_socket},
                              {"dev-tty", dev_tty},
                              {"cgroup-mount", cgroup_mount},
                              {"ramfs-mount", ramfs_mount},
                              {"proc-mount", proc_mount},
                              {"sysfs-mount", sysfs_mount},
                              {"devpts-mount", devpts_mount},
                              {"mqueue-mount", mqueue_mount},
                              {}};
