// Files, directories, locks, watches, mounts and pipes.
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/fanotify.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "kinds.h"

namespace {

int make(const char* name, int flags = 0) { return must(open(name, O_RDWR | O_CREAT | flags, 0644), name); }

std::string at_offset(int fd, off_t at, size_t size) {
  std::string data(size, '\0');
  data.resize(static_cast<size_t>(must(pread(fd, data.data(), size, at), "pread")));
  return data;
}

void put(int fd, off_t at, const std::string& data) {
  same(must(pwrite(fd, data.data(), data.size(), at), "pwrite"), static_cast<ssize_t>(data.size()),
       "written");
}

struct stat look_at(int fd) {
  struct stat s{};
  must(fstat(fd, &s), "fstat");
  return s;
}

Check open_file() {
  const int fd = make("file", O_APPEND);
  write_all(fd, "0123456789");
  must(lseek(fd, 4, SEEK_SET), "lseek");
  const int twin = must(dup(fd), "dup"), again = must(open("file", O_RDONLY), "file");
  must(fcntl(again, F_SETFD, FD_CLOEXEC), "FD_CLOEXEC");
  return [=] {
    same(lseek(twin, 0, SEEK_CUR), off_t{4}, "the shared offset");
    same(lseek(again, 0, SEEK_CUR), off_t{0}, "the offset of its own");
    require(fcntl(fd, F_GETFL) & O_APPEND, "O_APPEND is lost");
    same(fcntl(again, F_GETFD), FD_CLOEXEC, "FD_CLOEXEC");
    same(read_some(fd, 3), "456", "what is read");
    same(lseek(twin, 0, SEEK_CUR), off_t{7}, "the twin's offset");
    must(lseek(fd, 4, SEEK_SET), "lseek");
  };
}

Check deleted_dense() {
  constexpr size_t kSize = 64 << 20;
  const int fd = make("dense");
  write_all(fd, pattern(kSize, 1));
  must(unlink("dense"), "unlink");
  return [=, seed = 1U]() mutable {
    same(look_at(fd).st_nlink, nlink_t{0}, "the number of names");
    require(at_offset(fd, 0, kSize) == pattern(kSize, seed), "another content");
    put(fd, 0, pattern(kSize, ++seed));
  };
}

Check deleted_sparse() {
  constexpr off_t kSize = 1500L << 20;
  const int fd = make("sparse");
  must(ftruncate(fd, kSize), "ftruncate");
  for (const off_t at : {0L, 700L << 20, 1400L << 20}) put(fd, at, pattern(10000, 7));
  must(unlink("sparse"), "unlink");
  return [=] {
    same(look_at(fd).st_size, kSize, "the size");
    require(look_at(fd).st_blocks < 1000, "its holes are full");
    for (const off_t at : {0L, 700L << 20, 1400L << 20})
      require(at_offset(fd, at, 10000) == pattern(10000, 7), "another content");
    same(at_offset(fd, 1000L << 20, 4), std::string(4, '\0'), "a hole");
  };
}

Check deleted_mapped() {
  const int fd = make("mapped");
  must(ftruncate(fd, 1 << 20), "ftruncate");
  auto* at =
      static_cast<char*>(must_map(mmap(nullptr, 1 << 20, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), "mmap"));
  std::strcpy(at + 5000, "stored");
  must(unlink("mapped"), "unlink");
  return [=] {
    same(std::string(at + 5000), "stored", "what is mapped");
    same(at_offset(fd, 5000, 6), "stored", "the file");
    put(fd, 9000, "written");
    same(std::string(at + 9000, 7), "written", "what is mapped, after a write");
  };
}

Check deleted_directory() {
  must(mkdir("gone", 0755), "mkdir");
  must(chdir("gone"), "chdir");
  const int fd = must(open(".", O_RDONLY | O_DIRECTORY), ".");
  must(rmdir("../gone"), "rmdir");
  return [=] {
    char path[100];
    require(getcwd(path, sizeof path) == nullptr || std::strstr(path, "(unreachable)"),
            "it has a path again");
    require(open("new", O_CREAT | O_RDWR, 0644) < 0, "it takes new files");
    same(look_at(fd).st_nlink, nlink_t{0}, "the number of names");
  };
}

Check renamed() {
  const int fd = make("first");
  must(mkdir("directory", 0755), "mkdir");
  const int dir = must(open("directory", O_RDONLY | O_DIRECTORY), "directory"),
            path = must(open("first", O_PATH), "path");
  write_all(fd, "content");
  must(rename("first", "second"), "rename");
  must(rename("directory", "folder"), "rename");
  return [=, n = 0]() mutable {
    write_file("second", "through the name " + std::to_string(++n));
    same(at_offset(fd, 0, 100), "through the name " + std::to_string(n), "the open file");
    must(mkdirat(dir, ("in" + std::to_string(n)).c_str(), 0755), "mkdirat");
    must(access(("folder/in" + std::to_string(n)).c_str(), F_OK), "access");
    require(fcntl(path, F_GETFL) & O_PATH, "O_PATH is lost");
  };
}

Check flock_lock() {
  const int fd = make("lock");
  must(flock(fd, LOCK_EX), "flock");
  return [=] {
    in_child([] {
      const int mine = make("lock");
      require(flock(mine, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK, "the lock is lost");
    });
    must(flock(fd, LOCK_UN), "unlock");
    in_child([] { must(flock(make("lock"), LOCK_EX | LOCK_NB), "a lock that stays"); });
    must(flock(fd, LOCK_EX), "flock");
  };
}

struct flock range(int type, off_t from, off_t length) {
  struct flock lock{};
  lock.l_type = static_cast<short>(type);
  lock.l_whence = SEEK_SET;
  lock.l_start = from;
  lock.l_len = length;
  return lock;
}

Check posix_lock() {
  const int fd = make("lock");
  struct flock writing = range(F_WRLCK, 10, 5), reading = range(F_RDLCK, 100, 0);
  must(fcntl(fd, F_SETLK, &writing), "F_SETLK");
  must(fcntl(fd, F_SETLK, &reading), "F_SETLK");
  return [holder = getpid()] {
    in_child([=] {
      const int mine = make("lock");
      struct flock ask = range(F_WRLCK, 0, 20);
      must(fcntl(mine, F_GETLK, &ask), "F_GETLK");
      require(ask.l_type == F_WRLCK && ask.l_start == 10 && ask.l_len == 5 && ask.l_pid == holder,
              "the lock is lost");
      ask = range(F_WRLCK, 200, 1);
      must(fcntl(mine, F_GETLK, &ask), "F_GETLK");
      require(ask.l_type == F_RDLCK && ask.l_start == 100, "the lock for reading is lost");
    });
  };
}

Check ofd_lock() {
  const int fd = make("lock");
  struct flock lock = range(F_WRLCK, 10, 5);
  must(fcntl(fd, F_OFD_SETLK, &lock), "F_OFD_SETLK");
  return [=] {
    const int mine = make("lock");
    struct flock ask = range(F_WRLCK, 0, 20);
    must(fcntl(mine, F_OFD_GETLK, &ask), "F_OFD_GETLK");
    require(ask.l_type == F_WRLCK && ask.l_start == 10 && ask.l_len == 5, "the lock is lost");
    close(mine);
  };
}

Check lease() {
  const int fd = make("leased");
  must(fcntl(fd, F_SETLEASE, F_WRLCK), "F_SETLEASE");
  return [=] { same(fcntl(fd, F_GETLEASE), F_WRLCK, "the lease"); };
}

std::string events_of(int watch) {
  alignas(inotify_event) char buffer[8192];
  std::string names;
  pollfd p{watch, POLLIN, 0};
  while (poll(&p, 1, 500) == 1) {
    const ssize_t n = must(read(watch, buffer, sizeof buffer), "read");
    for (ssize_t at = 0; at < n;) {
      const auto* event = reinterpret_cast<const inotify_event*>(buffer + at);
      names += std::to_string(event->wd) + (event->len ? event->name : "") + " ";
      at += static_cast<ssize_t>(sizeof(inotify_event) + event->len);
    }
  }
  return names;
}

Check inotify() {
  write_file("file", "x");
  must(mkdir("watched", 0755), "mkdir");
  const int watch = must(inotify_init1(IN_NONBLOCK | IN_CLOEXEC), "inotify_init");
  same(inotify_add_watch(watch, "watched", IN_CREATE), 1, "the first watch");
  same(inotify_add_watch(watch, "file", IN_CLOSE_WRITE), 2, "the second watch");
  must(inotify_rm_watch(watch, 1), "rm_watch");
  same(inotify_add_watch(watch, "watched", IN_CREATE), 3, "the third watch");
  events_of(watch);
  return [=, n = 0]() mutable {
    events_of(watch);
    const std::string name = "new" + std::to_string(++n);
    write_file("watched/" + name, "");
    write_file("file", "changed");
    same(events_of(watch), "3" + name + " 2 ", "the events");
  };
}

Check inotify_pending() {
  must(mkdir("watched", 0755), "mkdir");
  const int watch = must(inotify_init1(IN_NONBLOCK | IN_CLOEXEC), "inotify_init");
  must(inotify_add_watch(watch, "watched", IN_CREATE | IN_DELETE), "add_watch");
  write_file("watched/early", "");
  return [=] {
    same(events_of(watch), "1early ", "the events");
    unlink("watched/early");
    events_of(watch);
    write_file("watched/early", "");
  };
}

Check fanotify() {
  must(mkdir("watched", 0755), "mkdir");
  const int watch =
      must(fanotify_init(FAN_REPORT_FID | FAN_REPORT_DFID_NAME | FAN_NONBLOCK, O_RDONLY), "fanotify_init");
  must(fanotify_mark(watch, FAN_MARK_ADD, FAN_CREATE | FAN_ONDIR | FAN_EVENT_ON_CHILD, AT_FDCWD, "watched"),
       "fanotify_mark");
  return [=, n = 0]() mutable {
    drain(watch);
    write_file("watched/new" + std::to_string(++n), "");
    require(drain(watch).contains("new" + std::to_string(n)), "no event");
  };
}

Check epoll() {
  const int set = must(epoll_create1(EPOLL_CLOEXEC), "epoll_create"),
            event = must(eventfd(0, EFD_NONBLOCK), "eventfd");
  int pipes[2];
  must(pipe(pipes), "pipe");
  auto add = [=](int fd, uint32_t events, uint64_t data) {
    epoll_event e{.events = events, .data = {.u64 = data}};
    must(epoll_ctl(set, EPOLL_CTL_ADD, fd, &e), "epoll_ctl");
  };
  add(event, EPOLLIN, 0x1122334455667788);
  add(pipes[0], EPOLLIN | EPOLLET, 2);
  const int outer = must(epoll_create1(0), "epoll_create");
  epoll_event e{.events = EPOLLIN, .data = {.u64 = 3}};
  must(epoll_ctl(outer, EPOLL_CTL_ADD, set, &e), "epoll in epoll");
  // A descriptor that was closed while a twin of it is open stays in the set.
  const int twin = must(dup(event), "dup");
  return [=] {
    epoll_event found[4];
    same(epoll_wait(set, found, 4, 0), 0, "events before there is one");
    eventfd_write(twin, 5);
    same(epoll_wait(outer, found, 4, 1000), 1, "events of the outer set");
    same(epoll_wait(set, found, 4, 1000), 1, "events");
    same(found[0].data.u64, uint64_t{0x1122334455667788}, "its data");
    eventfd_t value = 0;
    must(eventfd_read(event, &value), "eventfd_read");
    same(value, eventfd_t{5}, "the counter");
    write_all(pipes[1], "x");
    same(epoll_wait(set, found, 4, 1000), 1, "events of the pipe");
    same(epoll_wait(set, found, 4, 0), 0, "events of the pipe, edge-triggered");
    read_some(pipes[0]);
  };
}

Check eventfds() {
  const int counter = must(eventfd(7, EFD_NONBLOCK), "eventfd");
  return [=] {
    eventfd_t value = 0;
    must(eventfd_read(counter, &value), "eventfd_read");
    same(value, eventfd_t{7}, "the counter");
    eventfd_write(counter, 7);
  };
}

Check eventfd_semaphore() {
  const int semaphore = must(eventfd(3, EFD_SEMAPHORE | EFD_NONBLOCK), "eventfd");
  return [=] {
    eventfd_t value = 0;
    for (int i = 0; i < 3; ++i) {
      must(eventfd_read(semaphore, &value), "eventfd_read");
      same(value, eventfd_t{1}, "the semaphore");
    }
    require(eventfd_read(semaphore, &value) != 0, "the semaphore has more");
    eventfd_write(semaphore, 3);
  };
}

Check timerfds() {
  const int often = must(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK), "timerfd"),
            late = must(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK), "timerfd"),
            real = must(timerfd_create(CLOCK_REALTIME, TFD_NONBLOCK), "timerfd"),
            boot = must(timerfd_create(CLOCK_BOOTTIME, TFD_NONBLOCK), "timerfd");
  const itimerspec fast{{0, 20'000'000}, {0, 20'000'000}}, slow{{0, 0}, {1000, 0}};
  for (const int fd : {often, boot}) must(timerfd_settime(fd, 0, &fast, nullptr), "settime");
  must(timerfd_settime(late, 0, &slow, nullptr), "settime");
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  const itimerspec absolute{{0, 0}, {now.tv_sec + 2000, 0}};
  must(timerfd_settime(real, TFD_TIMER_ABSTIME, &absolute, nullptr), "settime");
  return [=] {
    for (const int fd : {often, boot}) {
      uint64_t ticks = 0;
      pollfd p{fd, POLLIN, 0};
      for (int i = 0; i < 3; ++i) {
        same(poll(&p, 1, 2000), 1,
             "the timer that ticks (" + std::string(fd == boot ? "boot" : "monotonic") + ")");
        must(read(fd, &ticks, sizeof ticks), "read");
        require(ticks > 0 && ticks < 10000, "ticks " + std::to_string(ticks));
      }
    }
    itimerspec left{};
    must(timerfd_gettime(late, &left), "gettime");
    require(left.it_value.tv_sec > 800 && left.it_value.tv_sec <= 1000,
            "left: " + std::to_string(left.it_value.tv_sec));
    must(timerfd_gettime(real, &left), "gettime");
    require(left.it_value.tv_sec > 1800 && left.it_value.tv_sec <= 2000,
            "left, by the clock: " + std::to_string(left.it_value.tv_sec));
  };
}

Check pipe_data() {
  int full[2], ended[2];
  must(pipe2(full, O_NONBLOCK), "pipe");
  must(pipe2(ended, O_NONBLOCK), "pipe");
  const int size = must(fcntl(full[1], F_SETPIPE_SZ, 1 << 20), "F_SETPIPE_SZ");
  auto fill = [=] {
    size_t n = 0;
    const std::string piece = pattern(4096, 3);
    for (ssize_t w; (w = write(full[1], piece.data(), piece.size())) > 0;) n += static_cast<size_t>(w);
    return n;
  };
  const size_t held = fill();
  write_all(ended[1], "the last words");
  close(ended[1]);
  return [=, first = true]() mutable {
    same(fcntl(full[0], F_GETPIPE_SZ), size, "the pipe's size");
    const std::string data = drain(full[0]);
    same(data.size(), held, "bytes in the pipe");
    for (size_t at = 0; at < data.size(); at += 4096)
      require(data.compare(at, 4096, pattern(4096, 3)) == 0, "another content");
    same(fill(), held, "what goes into it again");
    if (first) same(drain(ended[0]), "the last words", "a pipe without a writer");
    first = false;
    same(read(ended[0], nullptr, 0), ssize_t{0}, "its end");
  };
}

Check pipe_packets() {
  int packets[2];
  must(pipe2(packets, O_NONBLOCK | O_DIRECT), "pipe");
  auto send = [=] {
    write_all(packets[1], "one");
    write_all(packets[1], "three");
  };
  send();
  return [=] {
    same(read_some(packets[0]), "one", "a packet");
    same(read_some(packets[0]), "three", "a packet");
    send();
  };
}

Check pipe_between() {
  int out[2], in[2];
  must(pipe(out), "pipe");
  must(pipe(in), "pipe");
  child([=] {
    close(out[1]);
    close(in[0]);
    for (std::string line; !(line = read_some(out[0])).empty();) write_all(in[1], "answer to " + line);
  });
  close(out[0]);
  close(in[1]);
  return [=, n = 0]() mutable {
    write_all(out[1], std::to_string(++n));
    same(read_some(in[0]), "answer to " + std::to_string(n), "the child's answer");
  };
}

Check fifos() {
  for (const char* name : {"fifo", "gone"}) must(mkfifo(name, 0644), "mkfifo");
  const int fd = must(open("fifo", O_RDWR | O_NONBLOCK), "fifo"),
            reader = must(open("gone", O_RDONLY | O_NONBLOCK), "gone"),
            writer = must(open("gone", O_WRONLY | O_NONBLOCK), "gone");
  unlink("gone");
  write_all(fd, "waits");
  write_all(writer, "waits as well");
  return [=] {
    same(drain(fd), "waits", "what the FIFO holds");
    same(drain(reader), "waits as well", "what the deleted FIFO holds");
    const int again = must(open("fifo", O_WRONLY | O_NONBLOCK), "fifo");
    write_all(again, "waits");
    close(again);
    write_all(writer, "waits as well");
  };
}

Check mounts() {
  // In /tmp of the box itself: what it has mounted stays mounted.
  for (const char* name : {"tmpfs", "bound", "bound-file", "read-only"}) mkdir(name, 0755);
  must(mount("tmpfs", "tmpfs", "tmpfs", MS_NOSUID, "size=8m,mode=1700"), "mount tmpfs");
  write_file("tmpfs/file", "in memory");
  must(mkdir("tmpfs/deep", 0700), "mkdir");
  must(symlink("file", "tmpfs/link"), "symlink");
  must(mkdir("source", 0755), "mkdir");
  write_file("source/file", "bound");
  must(mount("source", "bound", nullptr, MS_BIND, nullptr), "bind");
  must(mount("source", "read-only", nullptr, MS_BIND, nullptr), "bind");
  must(mount(nullptr, "read-only", nullptr, MS_BIND | MS_REMOUNT | MS_RDONLY, nullptr), "remount");
  rmdir("bound-file");
  write_file("bound-file", "");
  must(mount("source/file", "bound-file", nullptr, MS_BIND, nullptr), "bind a file");
  const int held = make("tmpfs/held"), cursor = must(open("bound/file", O_RDONLY), "bound/file");
  write_all(held, "open");
  must(mkdir("tmpfs/deep/under", 0755), "mkdir");
  must(mount("inner", "tmpfs/deep/under", "tmpfs", 0, "size=1m"), "mount in a mount");
  write_file("tmpfs/deep/under/file", "deeper");
  return [=] {
    same(read_file("tmpfs/link"), "in memory", "a file on tmpfs");
    same(read_file("tmpfs/deep/under/file"), "deeper", "a file on a tmpfs in it");
    struct statfs s{};
    must(statfs("tmpfs", &s), "statfs");
    same(static_cast<long>(s.f_type), 0x01021994L, "its type");
    same(static_cast<long>(s.f_blocks * static_cast<unsigned long>(s.f_bsize)), 8L << 20, "its size");
    same(at_offset(held, 0, 10), "open", "an open file on it");
    same(read_file("bound/file"), "bound", "a bind mount");
    same(read_file("bound-file"), "bound", "a bind mount of a file");
    must(lseek(cursor, 0, SEEK_SET), "lseek");
    same(read_some(cursor), "bound", "an open file below a bind mount");
    require(open("read-only/file", O_WRONLY) < 0 && errno == EROFS, "it is not read-only any more");
  };
}

Check mount_namespace() {
  must(unshare(CLONE_NEWNS), "unshare");
  must(mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr), "private");
  mkdir("own", 0755);
  must(mount("own", "own", "tmpfs", 0, "size=4m"), "mount");
  write_file("own/file", "only here");
  return [init = must(open("/proc/1/root", O_PATH), "root")] {
    same(read_file("own/file"), "only here", "the file");
    require(faccessat(init, "srv/kinds/mount-namespace/own", F_OK, 0) == 0, "the mount point is gone");
    require(faccessat(init, "srv/kinds/mount-namespace/own/file", F_OK, 0) != 0, "others see it");
  };
}

Check chrooted() {
  mkdir("root", 0755);
  write_file("root/here", "inside");
  const pid_t pid = child([] {
    must(chroot("root"), "chroot");
    must(chdir("/"), "chdir");
    for (;;) pause();
  });
  return [=] {
    const std::string root = "/proc/" + std::to_string(pid) + "/root/here";
    until("the child is in its root", [=] { return access(root.c_str(), F_OK) == 0; });
    same(read_file(root), "inside", "its root");
  };
}

}  // namespace

const Kind kFileKinds[] = {{"open-file", open_file},
                           {"deleted-dense", deleted_dense},
                           {"deleted-sparse", deleted_sparse},
                           {"deleted-mapped", deleted_mapped},
                           {"deleted-directory", deleted_directory},
                           {"renamed", renamed},
                           {"flock", flock_lock},
                           {"posix-lock", posix_lock},
                           {"ofd-lock", ofd_lock},
                           {"lease", lease},
                           {"inotify", inotify},
                           {"inotify-pending", inotify_pending},
                           {"fanotify", fanotify},
                           {"epoll", epoll},
                           {"eventfd", eventfds},
                           {"eventfd-semaphore", eventfd_semaphore},
                           {"timerfd", timerfds},
                           {"pipe-data", pipe_data},
                           {"pipe-packets", pipe_packets},
                           {"pipe-between", pipe_between},
                           {"fifo", fifos},
                           {"mounts", mounts},
                           {"mount-namespace", mount_namespace},
                           {"chroot", chrooted},
                           {}};
