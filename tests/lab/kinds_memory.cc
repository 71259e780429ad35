// Mappings, System V IPC, message queues, futexes.
#include <fcntl.h>
#include <mqueue.h>
#include <pthread.h>
#include <signal.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kinds.h"

namespace {

constexpr size_t kPage = 4096;

char* map(size_t size, int flags, int fd = -1, int protection = PROT_READ | PROT_WRITE) {
  return static_cast<char*>(must_map(mmap(nullptr, size, protection, flags, fd, 0), "mmap"));
}

Check private_memory() {
  constexpr size_t kSize = 8 << 20;
  char* at = map(kSize, MAP_PRIVATE | MAP_ANONYMOUS);
  std::memcpy(at, pattern(kSize / 2, 4).data(), kSize / 2);  // the other half is never touched
  must(mprotect(at, kPage, PROT_READ), "mprotect");
  must(mlock(at + kPage, 4 * kPage), "mlock");
  must(madvise(at + kSize / 2, kPage, MADV_DONTFORK), "madvise");
  write_file("file", pattern(2 * kPage, 5));
  const int fd = must(open("file", O_RDWR), "file");
  char* copied = map(2 * kPage, MAP_PRIVATE, fd);
  std::strcpy(copied, "changed here only");
  close(fd);
  return [=] {
    require(std::memcmp(at, pattern(kSize / 2, 4).data(), kSize / 2) == 0, "another content");
    require(std::string(at + kSize / 2, kPage) == std::string(kPage, '\0'),
            "what was never touched is not zero");
    same(std::string(copied), "changed here only", "a page of its own of a file");
    require(std::memcmp(copied + kPage, pattern(2 * kPage, 5).data() + kPage, kPage) == 0, "the file's page");
    require(read_file("file") == pattern(2 * kPage, 5), "the file is changed");
    const std::string maps = read_file("/proc/self/smaps");
    require(maps.contains("lo "), "memory is locked no more");
    require(maps.contains("dc "), "MADV_DONTFORK is lost");
  };
}

Check shared_memory() {
  char* anonymous = map(1 << 20, MAP_SHARED | MAP_ANONYMOUS);
  const int fd = must(shm_open("/kinds", O_RDWR | O_CREAT, 0600), "shm_open");
  must(ftruncate(fd, 1 << 20), "ftruncate");
  char* named = map(1 << 20, MAP_SHARED, fd);
  const int gone = must(shm_open("/kinds-gone", O_RDWR | O_CREAT, 0600), "shm_open");
  must(ftruncate(gone, 1 << 20), "ftruncate");
  char* unnamed = map(1 << 20, MAP_SHARED, gone);
  shm_unlink("/kinds-gone");
  const int zero = must(open("/dev/zero", O_RDWR), "/dev/zero");
  char* zeroes = map(1 << 20, MAP_SHARED, zero);
  std::strcpy(anonymous + 70000, "start");
  // A child answers in the same memory.
  child([=] {
    for (;;) {
      for (char* at : {anonymous, named, unnamed, zeroes})
        if (at[0] != at[1]) at[1] = at[0];
      usleep(5000);
    }
  });
  return [=, n = 0]() mutable {
    same(std::string(anonymous + 70000), "start", "what was stored before");
    ++n;
    for (char* at : {anonymous, named, unnamed, zeroes}) {
      at[0] = static_cast<char>('0' + n);
      until("the other process answers in the shared memory",
            [=] { return const_cast<volatile char*>(at)[1] == '0' + n; });
    }
    same(read_file("/dev/shm/kinds").substr(0, 1), std::to_string(n), "the file in /dev/shm");
  };
}

Check memfds() {
  const int plain = must(memfd_create("plain", 0), "memfd_create"),
            sealed = must(memfd_create("sealed", MFD_ALLOW_SEALING), "memfd_create");
  write_all(plain, pattern(100000, 6));
  write_all(sealed, "for ever");
  constexpr int kSeals = F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
  must(fcntl(sealed, F_ADD_SEALS, kSeals), "F_ADD_SEALS");
  char* at = map(100000, MAP_SHARED, plain);
  return [=] {
    require(std::memcmp(at, pattern(100000, 6).data(), 100000) == 0, "another content");
    must(pwrite(plain, "new", 3, 50000), "pwrite");
    same(std::string(at + 50000, 3), "new", "what is mapped");
    must(pwrite(plain, pattern(100000, 6).data(), 100000, 0), "pwrite");
    same(fcntl(sealed, F_GET_SEALS), kSeals, "the seals");
    require(pwrite(sealed, "x", 1, 0) < 0 && errno == EPERM, "it can be written");
    char text[9] = {};
    must(pread(sealed, text, 8, 0), "pread");
    same(std::string(text), "for ever", "the sealed one");
  };
}

Check sealed_mapping() {
  const int sealed = must(memfd_create("sealed", MFD_ALLOW_SEALING), "memfd_create");
  write_all(sealed, "for ever");
  must(fcntl(sealed, F_ADD_SEALS, F_SEAL_WRITE), "F_ADD_SEALS");
  char* at = map(8, MAP_SHARED, sealed, PROT_READ);
  close(sealed);
  return [=] { same(std::string(at, 8), "for ever", "what is mapped"); };
}

Check executable_memfd() {
  const int fd = must(memfd_create("program", MFD_CLOEXEC), "memfd_create");
  write_all(fd, read_file("/proc/self/exe"));
  const pid_t pid = child([=] {
    const char* argv[] = {"kinds", "serve", nullptr};
    fexecve(fd, const_cast<char**>(argv), environ);
  });
  usleep(200000);
  return [=] {
    same(waitpid(pid, nullptr, WNOHANG), pid_t{0}, "the program's end");
    char path[100] = {};
    must(readlink(("/proc/" + std::to_string(pid) + "/exe").c_str(), path, sizeof path - 1), "readlink");
    require(std::string(path).contains("memfd:program"), path);
  };
}

Check sysv_shm() {
  const int attached = must(shmget(0x4711, 1 << 20, IPC_CREAT | 0640), "shmget"),
            detached = must(shmget(0x4712, 5000, IPC_CREAT | 0600), "shmget"),
            removed = must(shmget(IPC_PRIVATE, 5000, IPC_CREAT | 0600), "shmget");
  auto attach = [](int id, int flags = 0) {
    return static_cast<char*>(must_map(shmat(id, nullptr, flags), "shmat"));
  };
  char* at = attach(attached);
  char* gone = attach(removed);
  char* other = attach(detached);
  std::strcpy(at + 9000, "attached");
  std::strcpy(gone, "removed");
  std::strcpy(other, "detached");
  shmdt(other);
  must(shmctl(removed, IPC_RMID, nullptr), "IPC_RMID");
  return [=] {
    same(std::string(at + 9000), "attached", "the attached segment");
    same(std::string(gone), "removed", "the removed segment");
    char* again = attach(must(shmget(0x4712, 0, 0), "shmget"), SHM_RDONLY);
    same(std::string(again), "detached", "the detached segment");
    shmdt(again);
    shmid_ds info{};
    must(shmctl(shmget(0x4711, 0, 0), IPC_STAT, &info), "IPC_STAT");
    same(shmget(0x4711, 0, 0), attached, "the id");
    same(info.shm_segsz, size_t{1 << 20}, "the size");
    same(static_cast<int>(info.shm_perm.mode & 0777), 0640, "the mode");
    same(info.shm_nattch, shmatt_t{1}, "who is attached");
  };
}

Check sysv_sem() {
  const int set = must(semget(0x4713, 3, IPC_CREAT | 0600), "semget");
  for (int i = 0; i < 3; ++i) must(semctl(set, i, SETVAL, i * 10), "SETVAL");
  auto start = [=] {
    return child([=] {
      sembuf down{0, -1, 0};
      while (semop(set, &down, 1) != 0)
        same(errno, EINTR, "the error of semop");  // signal(7): it is not restarted
    });
  };
  return [=, pid = start()]() mutable {
    for (int i = 0; i < 3; ++i) same(semctl(set, i, GETVAL), i * 10, "semaphore " + std::to_string(i));
    same(waitpid(pid, nullptr, WNOHANG), pid_t{0}, "a waiter's end");
    sembuf up{0, 1, 0};
    must(semop(set, &up, 1), "semop");
    same(wait_for(pid), 0, "a waiter's status");
    pid = start();
  };
}

Check sysv_sem_undo() {
  const int set = must(semget(0x4714, 1, IPC_CREAT | 0600), "semget");
  must(semctl(set, 0, SETVAL, 5), "SETVAL");
  auto start = [=] {
    return child([=] {
      sembuf down{0, -1, SEM_UNDO};
      must(semop(set, &down, 1), "semop");
      for (;;) pause();
    });
  };
  const pid_t first = start();
  until("the child has one", [=] { return semctl(set, 0, GETVAL) == 4; });
  return [=, pid = first]() mutable {
    same(semctl(set, 0, GETVAL), 4, "the semaphore");
    kill(pid, SIGKILL);
    wait_for(pid);
    same(semctl(set, 0, GETVAL), 5, "the semaphore after the end of its holder");
    pid = start();
    until("the child has one", [=] { return semctl(set, 0, GETVAL) == 4; });
  };
}

Check sysv_msg() {
  const int queue = must(msgget(0x4715, IPC_CREAT | 0600), "msgget");
  struct Message {
    long type;
    char text[2000];
  };
  auto send = [=](long type, const std::string& text) {
    Message message{type, {}};
    std::strcpy(message.text, text.c_str());
    must(msgsnd(queue, &message, text.size(), IPC_NOWAIT), "msgsnd");
  };
  auto get = [=](long type) {
    Message message{};
    const ssize_t n = must(msgrcv(queue, &message, sizeof message.text, type, IPC_NOWAIT), "msgrcv");
    return std::string(message.text, static_cast<size_t>(n));
  };
  auto fill = [=] {
    send(3, "three");
    send(1, std::string(1500, 'x'));
    send(3, "another three");
    send(2, "");
  };
  fill();
  return [=] {
    same(msgget(0x4715, 0), queue, "the id");
    same(get(2), "", "the empty one");
    same(get(3), "three", "the first of two");
    same(get(0), std::string(1500, 'x'), "the first that is left");
    same(get(0), "another three", "the last");
    fill();
  };
}

Check posix_mq() {
  mq_attr attributes{};
  attributes.mq_maxmsg = 5;
  attributes.mq_msgsize = 100;
  const mqd_t queue = must(mq_open("/kinds", O_RDWR | O_CREAT | O_NONBLOCK, 0600, &attributes), "mq_open");
  auto fill = [=] {
    must(mq_send(queue, "low", 3, 1), "mq_send");
    must(mq_send(queue, "high", 4, 9), "mq_send");
  };
  fill();
  return [=] {
    char text[100];
    unsigned priority = 0;
    same(std::string(
             text, static_cast<size_t>(must(mq_receive(queue, text, sizeof text, &priority), "mq_receive"))),
         "high", "the first");
    same(priority, 9U, "its priority");
    must(mq_receive(queue, text, sizeof text, &priority), "mq_receive");
    fill();
  };
}

/// The same with nobody who has it open.
Check posix_mq_closed() {
  const Check open = posix_mq();
  mq_unlink("/kinds-closed");
  const mqd_t queue = must(mq_open("/kinds-closed", O_RDWR | O_CREAT, 0600, nullptr), "mq_open");
  must(mq_send(queue, "waits", 5, 1), "mq_send");
  mq_close(queue);
  // Of the other kind nothing stays.
  for (int fd = 3; fd < 20; ++fd) close(fd);
  mq_unlink("/kinds");
  return [] {
    const mqd_t again = must(mq_open("/kinds-closed", O_RDWR | O_NONBLOCK), "mq_open");
    char text[10000];
    same(std::string(text,
                     static_cast<size_t>(must(mq_receive(again, text, sizeof text, nullptr), "mq_receive"))),
         "waits", "the message");
    must(mq_send(again, "waits", 5, 1), "mq_send");
    mq_close(again);
  };
}

/// A lock in shared memory whose holder dies.
Check robust_futex() {
  struct Shared {
    pthread_mutex_t robust, plain;
    int held;
  };
  auto* shared = reinterpret_cast<Shared*>(map(sizeof(Shared), MAP_SHARED | MAP_ANONYMOUS));
  pthread_mutexattr_t attributes;
  pthread_mutexattr_init(&attributes);
  pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
  pthread_mutex_init(&shared->plain, &attributes);
  pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
  pthread_mutex_init(&shared->robust, &attributes);
  auto start = [=] {
    shared->held = 0;
    const pid_t pid = child([=] {
      pthread_mutex_lock(&shared->robust);
      const_cast<volatile int&>(shared->held) = 1;
      for (;;) pause();
    });
    until("the child has the lock", [=] { return const_cast<volatile int&>(shared->held) == 1; });
    return pid;
  };
  pthread_mutex_lock(&shared->plain);
  const pid_t waits = child([=] { pthread_mutex_lock(&shared->plain); });
  return [=, holder = start(), waiter = waits]() mutable {
    same(pthread_mutex_trylock(&shared->robust), EBUSY, "the lock");
    kill(holder, SIGKILL);
    wait_for(holder);
    same(pthread_mutex_lock(&shared->robust), EOWNERDEAD, "the lock of the dead");
    pthread_mutex_consistent(&shared->robust);
    pthread_mutex_unlock(&shared->robust);
    holder = start();
    // And one that sleeps on a futex while it moves.
    same(waitpid(waiter, nullptr, WNOHANG), pid_t{0}, "the waiter's end");
    pthread_mutex_unlock(&shared->plain);
    same(wait_for(waiter), 0, "the waiter's status");
    pthread_mutex_init(&shared->plain, nullptr);
    waiter = child([] {
      for (;;) pause();
    });
    kill(waiter, SIGKILL);
    wait_for(waiter);
    pthread_mutexattr_t again;
    pthread_mutexattr_init(&again);
    pthread_mutexattr_setpshared(&again, PTHREAD_PROCESS_SHARED);
    pthread_mutex_init(&shared->plain, &again);
    pthread_mutex_lock(&shared->plain);
    waiter = child([=] { pthread_mutex_lock(&shared->plain); });
  };
}

void* deep_thread(void* at) {
  auto* cell = static_cast<volatile int*>(at);
  for (;;) {
    if (cell[0] != cell[1]) cell[1] = cell[0];
    usleep(2000);
    if (cell[0] < 0) return nullptr;
  }
}

Check threads() {
  static int cells[40][2];
  static thread_local int mine = 7;
  mine = 42;
  for (auto& cell : cells) {
    pthread_t thread;
    require(pthread_create(&thread, nullptr, deep_thread, cell) == 0, "pthread_create");
    pthread_setname_np(thread, ("cell" + std::to_string(&cell - cells)).c_str());
    pthread_detach(thread);
  }
  return [n = 0]() mutable {
    ++n;
    for (auto& cell : cells) cell[0] = n;
    for (auto& cell : cells)
      until("each thread runs", [&] { return const_cast<volatile int&>(cell[1]) == n; });
    same(mine, 42, "a thread-local variable");
    same(status_of(getpid(), "Threads"), "41", "the number of threads");
  };
}

}  // namespace

const Kind kMemoryKinds[] = {{"private-memory", private_memory},
                             {"shared-memory", shared_memory},
                             {"memfd", memfds},
                             {"sealed-mapping", sealed_mapping},
                             {"memfd-program", executable_memfd},
                             {"sysv-shm", sysv_shm},
                             {"sysv-sem", sysv_sem},
                             {"sysv-sem-undo", sysv_sem_undo},
                             {"sysv-msg", sysv_msg},
                             {"posix-mq", posix_mq},
                             {"posix-mq-closed", posix_mq_closed},
                             {"robust-futex", robust_futex},
                             {"threads", threads},
                             {}};
