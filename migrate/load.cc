#include "migrate/load.h"

#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <sstream>
#include <string>
#include <utility>

#include "base/fd.h"

namespace migrate {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

// So long a look takes, and between two lanes the first of them shows what it is worth.
constexpr auto kLook = 500ms;
constexpr double kBusy = 0.85, kIdle = 0.75;
// What OpenSSH sends on a channel until it gets an answer: CHAN_SES_WINDOW_DEFAULT of its channels.h.
constexpr double kSshWindow = 2 << 20;

/// The number-th word (from 1) of a file's first line, behind a command's name where there is one.
uint64_t number_in(const std::string& path, int number) {
  std::string text = base::read_file(path);
  text.erase(text.find('\n'));
  if (const size_t name = text.rfind(')'); name != std::string::npos) text.erase(0, name + 2);
  std::istringstream words(text);
  std::string word;
  while (number-- > 0) words >> word;
  return std::strtoull(word.c_str(), nullptr, 10);
}

std::chrono::nanoseconds ticks(uint64_t count) {
  static const auto per_second = static_cast<uint64_t>(::sysconf(_SC_CLK_TCK));
  return std::chrono::nanoseconds(count * 1'000'000'000 / per_second);
}

std::chrono::nanoseconds processor_time(pid_t process) {
  if (process <= 0) return 0ns;  // it has ended
  const std::string stat = "/proc/" + std::to_string(process) + "/stat";
  return ticks(number_in(stat, 12) + number_in(stat, 13));  // utime and stime, of all words 14 and 15
}

/// Of the TCP connection that a process has; where it has none, or is gone, zeros.
tcp_info connection_of(pid_t pid) {
  const base::Fd process(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  const std::string dir = "/proc/" + std::to_string(pid) + "/fd";
  std::error_code gone;
  for (std::filesystem::directory_iterator it(dir, gone), end; process && !gone && it != end;
       it.increment(gone)) {
    std::error_code closed;
    if (!std::filesystem::read_symlink(*it, closed).native().starts_with("socket:")) continue;
    // For a moment it is ours as well: it must not outlive ssh.
    const base::Fd fd(static_cast<int>(
        ::syscall(SYS_pidfd_getfd, process.get(), std::stoi(it->path().filename().string()), 0)));
    tcp_info info{};
    socklen_t size = sizeof info;
    if (fd && ::getsockopt(fd.get(), IPPROTO_TCP, TCP_INFO, &info, &size) == 0 && info.tcpi_bytes_acked > 0)
      return info;
  }
  return {};
}

}  // namespace

bool another_lane_pays(const Load& load) {
  return (load.idle > kIdle && (load.packing > kBusy || load.cipher > kBusy)) ||
         load.on_the_way > kSshWindow / 2;
}

std::optional<Load> LoadMeter::look(std::chrono::nanoseconds packing, pid_t ssh) {
  const auto now = Clock::now();
  if (last_ && now - last_->at < kLook) return std::nullopt;
  const tcp_info tcp = connection_of(ssh);
  const Sums is{now, packing, processor_time(ssh), ticks(number_in("/proc/stat", 5)), tcp.tcpi_bytes_acked,
                // All ones: it has not measured any.
                std::chrono::microseconds(tcp.tcpi_min_rtt == UINT32_MAX ? 0 : tcp.tcpi_min_rtt)};
  const auto was = std::exchange(last_, is);
  if (!was) return std::nullopt;
  using seconds = std::chrono::duration<double>;
  const seconds took = is.at - was->at;
  const auto share = [&](std::chrono::nanoseconds Sums::* sum) {
    return seconds(is.*sum - (*was).*sum) / took;
  };
  const uint64_t answered = is.answered - std::min(was->answered, is.answered);
  return Load{.packing = share(&Sums::packing),
              .cipher = share(&Sums::cipher),
              .idle = share(&Sums::idle),
              .on_the_way = static_cast<double>(answered) * (seconds(is.shortest_round) / took)};
}

}  // namespace migrate
