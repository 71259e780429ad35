// What a box's root might try, as one static program that the tests put into a box.
//
//   inside frames          sends every line of stdin (hex) as a raw frame out of eth0
//   inside call NUMBER...  makes a system call, all other arguments zero; prints 0 or the errno's name
//   inside sysv            makes, uses and removes a message queue, a semaphore and shared memory
#include <linux/if_packet.h>
#include <net/if.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <string>

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

}  // namespace

int main(int argc, char** argv) {
  const std::string what = argc > 1 ? argv[1] : "";
  if (what == "frames") return frames();
  if (what == "sysv") return sysv();
  if (what == "call" && argc > 2) {
    long a[7] = {};
    for (int i = 0; i < 7 && i + 2 < argc; ++i) a[i] = std::strtol(argv[i + 2], nullptr, 0);
    const bool good = syscall(a[0], a[1], a[2], a[3], a[4], a[5], a[6]) >= 0;
    std::puts(good ? "0" : strerrorname_np(errno));
    return 0;
  }
  return 2;
}
