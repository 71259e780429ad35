// What a box's root might try, as one static program that the tests put into a box.
//
//   inside frames          sends every line of stdin (hex) as a raw frame out of eth0
//   inside call NUMBER...  makes a system call, all other arguments zero; prints 0 or the errno's name
//   inside listen PORT     writes every UDP datagram to stdout as it comes, until it is killed
//   inside sysv            makes, uses and removes a message queue, a semaphore and shared memory
//   inside store FILE      maps a file shared, closes it, and stores one byte more at each SIGUSR1
//   inside churn MEGABYTES forks, maps, moves, gives back and unmaps memory without end, and checks what is
//   in it: a
//                          line a turn, one with "wrong" where it is not what was written
#include <fcntl.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <string>
#include <vector>

namespace {

int fail(const char* what) {
  std::printf("%s: %s\n", what, strerrorname_np(errno));
  return 1;
}

int frames() {
  const int out = socket(AF_PACKET, SOCK_RAW, 0);
  if (out < 0) return fail("socket");
  sockaddr_ll to{};
  to.sll_family = AF_PACKET;
  to.sll_ifindex = static_cast<int>(if_nametoindex("eth0"));
  for (std::string hex; std::getline(std::cin, hex);) {
    std::string frame;
    for (size_t i = 0; i + 1 < hex.size(); i += 2)
      frame += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
    if (sendto(out, frame.data(), frame.size(), 0, reinterpret_cast<sockaddr*>(&to), sizeof to) < 0)
      return fail("sendto");
  }
  return 0;
}

int sysv() {
  const int queue = msgget(IPC_PRIVATE, IPC_CREAT | 0600), set = semget(IPC_PRIVATE, 1, IPC_CREAT | 0600),
            memory = shmget(0x1234, 4096, IPC_CREAT | IPC_EXCL | 0600);
  if (queue < 0 || set < 0 || memory < 0) return fail("get");
  struct {
    long type = 1;
    char text[6] = "hello";
  } sent, got{};
  if (msgsnd(queue, &sent, sizeof sent.text, 0) != 0) return fail("msgsnd");
  if (msgrcv(queue, &got, sizeof got.text, 0, 0) < 0 || std::strcmp(got.text, "hello") != 0)
    return fail("msgrcv");
  sembuf up{0, 1, 0}, down{0, -1, 0};
  if (semop(set, &up, 1) != 0 || semop(set, &down, 1) != 0) return fail("semop");
  auto* at = static_cast<char*>(shmat(memory, nullptr, 0));
  if (at == reinterpret_cast<char*>(-1)) return fail("shmat");
  std::strcpy(at, "shared");
  std::puts(at);
  if (std::getenv("KEEP")) return 0;
  msgctl(queue, IPC_RMID, nullptr);
  semctl(set, 0, IPC_RMID);
  shmctl(memory, IPC_RMID, nullptr);
  return 0;
}

// --- churn

constexpr size_t kPiece = 64 * 4096;

/// Some pages of memory, and what must be in them: numbers that follow from `word`, or zeros.
struct Piece {
  char* at;
  unsigned long word;  ///< 0: zeros

  /// Nothing that could be compressed, or be taken for another page.
  [[nodiscard]] unsigned long number(size_t i) const {
    const unsigned long mixed = (word + i) * 0x9e3779b97f4a7c15UL;
    return word ? (mixed ^ (mixed >> 29)) * 0xbf58476d1ce4e5b9UL : 0;
  }

  void fill(unsigned long with) {
    word = with;
    for (size_t i = 0; i < kPiece; i += 8) {
      const unsigned long value = number(i);
      std::memcpy(at + i, &value, 8);
    }
  }
  [[nodiscard]] bool good() const {
    for (size_t i = 0; i < kPiece; i += 8) {
      unsigned long value = 0;
      std::memcpy(&value, at + i, 8);
      if (value != number(i)) return false;
    }
    return true;
  }
};

char* map_piece() {
  void* at = mmap(nullptr, kPiece, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (at == MAP_FAILED) std::exit(fail("mmap"));
  return static_cast<char*>(at);
}

/// What one turn does to a piece, or to all of them.
const char* turn(std::vector<Piece>& pieces, unsigned long number) {
  static unsigned long dice = 1;
  dice = dice * 6364136223846793005UL + 1442695040888963407UL;
  Piece& piece = pieces[(dice >> 33) % pieces.size()];
  Piece& other = pieces[(dice >> 41) % pieces.size()];
  switch ((dice >> 60) % 6) {
    case 0:
      if (!piece.good()) return "wrong before it is unmapped";
      munmap(piece.at, kPiece);
      piece.at = map_piece();
      piece.word = 0;
      break;
    case 1:
      if (madvise(piece.at, kPiece, MADV_DONTNEED) != 0) return "wrong: madvise";
      piece.word = 0;
      break;
    case 2: {
      void* to = map_piece();
      if (mremap(piece.at, kPiece, kPiece, MREMAP_MAYMOVE | MREMAP_FIXED, to) != to) return "wrong: mremap";
      piece.at = static_cast<char*>(to);
      break;
    }
    case 3:
      piece.fill(number << 20);
      break;
    case 4:
      if (!piece.good()) return "wrong where it was not touched";
      break;
    default: {  // a child sees what was there when it was made, and its parent does not see the child's
      const pid_t child = fork();
      if (child < 0) return "wrong: fork";
      if (child == 0) {
        other.fill(number << 20);
        _exit(piece.good() && other.good() ? 0 : 1);
      }
      int status = 0;
      if (waitpid(child, &status, 0) != child || status != 0) return "wrong in a child";
      break;
    }
  }
  return nullptr;
}

int churn(size_t megabytes) {
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  std::vector<Piece> pieces;
  for (size_t i = 0; i < (megabytes << 20) / kPiece; ++i) {
    pieces.push_back({map_piece(), 0});
    pieces.back().fill((i + 1) << 40);
  }
  for (unsigned long number = 1;; ++number) {
    const char* wrong = turn(pieces, number);
    if (!wrong && number % 200 == 0)
      for (const Piece& piece : pieces)
        if (!piece.good()) wrong = "wrong in the end";
    if (wrong) return std::puts(wrong), 1;
    if (number % 20 == 0) std::printf("%lu\n", number);
    usleep(1000);
  }
}

int listen(long port) {
  const int in = socket(AF_INET, SOCK_DGRAM, 0);
  sockaddr_in here = {};
  here.sin_family = AF_INET;
  here.sin_port = htons(static_cast<uint16_t>(port));
  if (bind(in, reinterpret_cast<const sockaddr*>(&here), sizeof here) != 0) return fail("bind");
  char datagram[2048];
  for (;;) {
    const ssize_t got = recv(in, datagram, sizeof datagram, 0);
    if (got < 0 || write(1, datagram, static_cast<size_t>(got)) != got) return fail("a datagram");
  }
}

}  // namespace

int store(const char* file) {
  const int fd = open(file, O_RDWR | O_CREAT | O_TRUNC, 0600);
  if (fd < 0 || ftruncate(fd, 4096) != 0) return fail("open");
  void* at = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (at == MAP_FAILED) return fail("mmap");
  close(fd);
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGUSR1);
  sigprocmask(SIG_BLOCK, &set, nullptr);
  for (auto* byte = static_cast<volatile char*>(at);; ++byte) {
    *byte = 'x';
    int signal = 0;
    sigwait(&set, &signal);
  }
}

int main(int argc, char** argv) {
  const std::string what = argc > 1 ? argv[1] : "";
  if (what == "store" && argc > 2) return store(argv[2]);
  if (what == "frames") return frames();
  if (what == "sysv") return sysv();
  if (what == "churn" && argc > 2) return churn(std::stoul(argv[2]));
  if (what == "listen" && argc > 2) return listen(std::strtol(argv[2], nullptr, 10));
  if (what == "call" && argc > 2) {
    long a[7] = {};
    for (int i = 0; i < 7 && i + 2 < argc; ++i) a[i] = std::strtol(argv[i + 2], nullptr, 0);
    const bool good = syscall(a[0], a[1], a[2], a[3], a[4], a[5], a[6]) >= 0;
    std::puts(good ? "0" : strerrorname_np(errno));
    return 0;
  }
  return 2;
}
