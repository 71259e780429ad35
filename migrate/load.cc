#include "migrate/load.h"

#include <unistd.h>

#include <cstdlib>
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

}  // namespace

bool another_lane_pays(const Load& load) {
  return load.idle > kIdle && (load.packing > kBusy || load.cipher > kBusy);
}

std::optional<Load> LoadMeter::look(std::chrono::nanoseconds packing, pid_t ssh) {
  const auto now = Clock::now();
  if (last_ && now - last_->at < kLook) return std::nullopt;
  const Sums is{now, packing, processor_time(ssh), ticks(number_in("/proc/stat", 5))};
  const auto was = std::exchange(last_, is);
  if (!was) return std::nullopt;
  const auto share = [&](std::chrono::nanoseconds Sums::* sum) {
    return std::chrono::duration<double>(is.*sum - (*was).*sum) /
           std::chrono::duration<double>(is.at - was->at);
  };
  return Load{share(&Sums::packing), share(&Sums::cipher), share(&Sums::idle)};
}

}  // namespace migrate
