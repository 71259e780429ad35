#include "migrate/quiet.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <format>
#include <fstream>
#include <iterator>
#include <thread>
#include <utility>

#include "base/error.h"
#include "base/fd.h"

namespace migrate {
namespace {

using namespace std::chrono_literals;

// In all a fifth of a second at most, which a client sees as a pause.
constexpr int kTurns = 20;
constexpr useconds_t kTurn = 10'000;
// What hangs there for longer, no other moment helps.
constexpr int kTurnsOfVfork = 100;

// For asynchronous requests. Between the disk's answer and what a program sees of it there may be a queue of
// the kernel's, which on a busy machine takes a while. Where the disk is never idle, its slowest answer
// counts (DiskReads::kSettle).
constexpr auto kLooks = 1ms, kAfterTheDisk = 50ms, kAnyDisk = 500ms, kRequestsMost = 2000ms;

bool is_fetched_from(int fd, bool is_socket) {
  if (!is_socket) {
    int bytes = 0;
    return ::ioctl(fd, FIONREAD, &bytes) == 0 && bytes > 0;
  }
  int listens = 0, family = 0;
  socklen_t size = sizeof listens;
  if (::getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &size) != 0 ||
      ::getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &family, &size) != 0)
    return false;
  pollfd p{fd, POLLIN, 0};
  return (listens != 0 || family == AF_NETLINK) && ::poll(&p, 1, 0) == 1 && (p.revents & POLLIN) != 0;
}

/// The freezer itself writes to `cgroup.events` of every group, and does so again where the box is let go:
/// what is lost of that is told anew. systemd watches the groups of its services.
bool watches_only_control_groups(pid_t pid, const std::string& fd) {
  struct stat groups{};
  if (::stat(box::cgroup_mount().c_str(), &groups) != 0) return false;
  // "inotify wd:1 ino:2a sdev:1c mask:..." in fdinfo (proc(5)); the device as the kernel has it: 12 bits, 20
  // bits.
  const std::string device =
      std::format(" sdev:{:x} ", static_cast<uint64_t>(major(groups.st_dev)) << 20 | minor(groups.st_dev));
  std::ifstream in(std::format("/proc/{}/fdinfo/{}", pid, fd));
  bool watches = false;
  for (std::string line; std::getline(in, line);) {
    if (!line.starts_with("inotify ")) continue;
    if (!line.contains(device)) return false;
    watches = true;
  }
  return watches;
}

bool waits_for(pid_t pid) {
  const base::Fd process(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  const std::string dir = "/proc/" + std::to_string(pid) + "/fd";
  std::error_code gone;
  for (std::filesystem::directory_iterator it(dir, gone), end; !gone && it != end; it.increment(gone)) {
    std::array<char, 64> target{};
    if (::readlink(it->path().c_str(), target.data(), target.size() - 1) < 0) continue;
    const bool is_socket = std::string_view(target.data()).starts_with("socket:");
    if (!is_socket && std::string_view(target.data()) != "anon_inode:inotify") continue;
    if (!is_socket && watches_only_control_groups(pid, it->path().filename())) continue;
    const base::Fd fd(static_cast<int>(
        ::syscall(SYS_pidfd_getfd, process.get(), std::stoi(it->path().filename().string()), 0)));
    if (fd && is_fetched_from(fd.get(), is_socket)) return true;
  }
  return false;
}

bool has_thread_in_vfork(const std::string& proc) {
  std::error_code gone;
  for (std::filesystem::directory_iterator it(proc + "/task", gone), end; !gone && it != end;
       it.increment(gone)) {
    // The state is behind the command's name, which may hold anything (proc(5)).
    const auto stat = base::read_file_if_exists(it->path() / "stat");
    if (!stat || !stat->substr(std::min(stat->size(), stat->rfind(')'))).starts_with(") D")) continue;
    const auto call = base::read_file_if_exists(it->path() / "syscall");
    const long number = call ? std::strtol(call->c_str(), nullptr, 10) : -1;
    if (number == SYS_vfork || number == SYS_clone || number == SYS_clone3) return true;
  }
  return false;
}

/// Where the kernel notes in a process's memory what has become of its asynchronous requests.
struct Ring {
  base::Fd memory;
  off_t at = 0;

  /// How many have ended, modulo its size.
  [[nodiscard]] uint32_t ended() const {
    std::array<uint32_t, 4> head{};  // struct aio_ring of Linux's fs/aio.c: id, nr, head, tail
    return ::pread(memory.get(), head.data(), sizeof head, at) == sizeof head ? head[3] : 0;
  }
};

std::vector<Ring> rings_of(pid_t pid) {
  std::vector<Ring> rings;
  const std::string proc = "/proc/" + std::to_string(pid);
  std::ifstream maps(proc + "/maps");
  for (std::string line; std::getline(maps, line);)
    if (line.ends_with(" /[aio] (deleted)"))
      rings.push_back({base::Fd(::open((proc + "/mem").c_str(), O_RDONLY | O_CLOEXEC)),
                       static_cast<off_t>(std::stoull(line, nullptr, 16))});
  return rings;
}

/// Whether the disk that a directory is on works; also true where nobody knows.
bool disk_works(const std::string& directory) {
  struct stat is{};
  if (::stat(directory.c_str(), &is) != 0) return true;
  const std::string disk = std::format("/sys/dev/block/{}:{}/", major(is.st_dev), minor(is.st_dev));
  for (const char* counts : {"queue/iostats", "../queue/iostats"})  // a partition has its disk's
    if (base::read_file_if_exists(disk + counts).value_or("1") == "0\n") return true;
  // Its ninth figure: what is under way (Documentation/block/stat.rst). Since Linux 6.10 that has what waits
  // in a queue, which the file `inflight` has not.
  std::ifstream in(disk + "stat");
  uint64_t figure = 0;
  for (int k = 0; k < 9; ++k) in >> figure;
  return !in || figure > 0;
}

}  // namespace

bool may_request(pid_t pid) { return !rings_of(pid).empty(); }

void wait_for_requests(const std::vector<pid_t>& pids, const std::string& directory) {
  using Clock = std::chrono::steady_clock;
  std::vector<Ring> rings;
  for (const pid_t pid : pids) std::ranges::move(rings_of(pid), std::back_inserter(rings));
  if (rings.empty()) return;
  const auto look = [&] {
    std::vector<uint32_t> all;
    for (const Ring& ring : rings) all.push_back(ring.ended());
    return all;
  };
  const auto start = Clock::now();
  auto seen = look();
  auto ended = start, idle_since = start;  // when one was seen to have ended; and the disk's rest
  for (auto now = start; now - ended < kAnyDisk; now = Clock::now()) {
    if (disk_works(directory)) idle_since = now;
    if (now - std::max(idle_since, ended) >= kAfterTheDisk) return;
    if (now - start >= kRequestsMost)
      throw base::error("asynchronous requests of the box go on ending for {} s while it is frozen",
                        kRequestsMost / 1s)
          .hint("try again when it reads and writes less");
    std::this_thread::sleep_for(kLooks);
    if (auto is = look(); is != seen) {
      seen = std::move(is);
      ended = Clock::now();
    }
  }
}

bool is_in_vfork(pid_t pid) { return has_thread_in_vfork("/proc/" + std::to_string(pid)); }

bool something_waits(const std::vector<pid_t>& pids) { return std::ranges::any_of(pids, waits_for); }

bool somebody_connects(pid_t init) {
  // proc_net_tcp.txt: sl, local, remote, state, tx_queue:rx_queue, …; of one that listens the latter counts
  // those that nobody has accepted.
  for (const char* table : {"tcp", "tcp6"}) {
    std::ifstream in(std::format("/proc/{}/net/{}", init, table));
    std::string slot, local, remote, state, queues, rest;
    std::getline(in, rest);  // the heading
    while (in >> slot >> local >> remote >> state >> queues && std::getline(in, rest))
      if (state == "03" || (state == "0A" && !queues.ends_with(":00000000")))
        return true;  // net/tcp_states.h
  }
  return false;
}

void freeze_quiet(const box::Cgroup& group) {
  group.freeze();
  const auto is_quiet = [&](int turn) {
    const auto pids = group.pids();
    return (turn >= kTurnsOfVfork || std::ranges::none_of(pids, is_in_vfork)) &&
           (turn >= kTurns || !something_waits(pids));
  };
  for (int turn = 0; !is_quiet(turn); ++turn) {
    group.thaw();
    ::usleep(kTurn);
    group.freeze();
  }
}

}  // namespace migrate
