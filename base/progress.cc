#include "base/progress.h"

#include <nlohmann/json.hpp>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <exception>
#include <format>
#include <vector>

namespace base {
namespace {

using std::chrono::steady_clock;

constexpr uint64_t kStepsBelow = 4096;  // totals below it are steps, not bytes
constexpr auto kBetweenUpdates = std::chrono::milliseconds(100);

void put(std::string_view text) {
  [[maybe_unused]] ssize_t written = ::write(STDERR_FILENO, text.data(), text.size());
}

struct State {
  std::string phase;
  uint64_t total;
  uint64_t done = 0;
  steady_clock::time_point begun = steady_clock::now();
  int exceptions = std::uncaught_exceptions();

  [[nodiscard]] double seconds() const {
    return std::chrono::duration<double>(steady_clock::now() - begun).count();
  }
  [[nodiscard]] bool failed() const { return std::uncaught_exceptions() > exceptions; }
  [[nodiscard]] bool steps() const { return std::max(total, done) < kStepsBelow; }
};

/// "0:07", "1:02:03"
std::string clock_time(double seconds) {
  int64_t whole = std::llround(seconds);
  if (whole < 3600) return std::format("{}:{:02}", whole / 60, whole % 60);
  return std::format("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60);
}

std::string rate(const State& state) {
  double per_second = static_cast<double>(state.done) / std::max(state.seconds(), 0.001);
  return human_size(static_cast<uint64_t>(per_second)) + "/s";
}

/// "packing layer: 2.3 s, 1.4 GiB at 623.1 MiB/s"
std::string summary(const State& state) {
  std::string line =
      std::format("{}: {}{:.1f} s", state.phase, state.failed() ? "failed after " : "", state.seconds());
  if (!state.steps()) line += std::format(", {} at {}", human_size(state.done), rate(state));
  return line;
}

/// Keeps the phases, one within another, and decides when it is time for an update.
class Phases : public Progress {
 public:
  void begin(std::string_view phase, uint64_t total) final {
    phases_.push_back({.phase = std::string(phase), .total = total});
    shown_ = steady_clock::now();
    begun(phases_.back());
  }
  void at(uint64_t done) final {
    if (phases_.empty()) return;
    phases_.back().done = done;
    auto now = steady_clock::now();
    if (now - shown_ < kBetweenUpdates) return;
    shown_ = now;
    update(phases_.back());
  }
  void end() final {
    if (phases_.empty()) return;
    State state = std::move(phases_.back());
    phases_.pop_back();
    ended(state);
  }

 private:
  virtual void begun(const State& state) = 0;
  virtual void update(const State& state) = 0;
  virtual void ended(const State& state) = 0;

  std::vector<State> phases_;
  steady_clock::time_point shown_;
};

class Bar : public Phases {
 public:
  void note(std::string_view line) override { put(std::format("{}{}\n", kClear, line)); }

 private:
  static constexpr std::string_view kClear = "\r\x1b[K";

  void begun(const State& state) override { update(state); }
  void ended(const State& state) override { note(summary(state)); }
  void update(const State& state) override {
    std::string figures = state.total == 0 ? so_far(state) : of_total(state);
    // "phase [bar] figures", one column short of the edge, so that no line wraps.
    size_t width = columns() - 1;
    size_t taken = state.phase.size() + figures.size() + 2;
    std::string bar =
        state.total > 0 && width >= taken + kLeastBar + 2 ? drawn(state, width - taken - 2) : "";
    std::string line = state.phase + " " + bar + (bar.empty() ? "" : " ") + figures;
    put(std::string(kClear) + line.substr(0, width));
  }

  static std::string drawn(const State& state, size_t room) {
    size_t cells = std::min<size_t>(room, 40);
    size_t full = static_cast<size_t>(share(state) * static_cast<double>(cells));
    return "[" + std::string(full, '#') + std::string(cells - full, '-') + "]";
  }

  static double share(const State& state) {
    return std::min(1.0, static_cast<double>(state.done) / static_cast<double>(state.total));
  }

  static std::string so_far(const State& state) {
    if (state.done == 0) return clock_time(state.seconds());
    if (state.steps()) return std::format("{}  {}", state.done, clock_time(state.seconds()));
    return std::format("{}  {}  {}", human_size(state.done), rate(state), clock_time(state.seconds()));
  }

  /// Each figure has a fixed width, so that the bar keeps its own.
  static std::string of_total(const State& state) {
    std::string figures = std::format("{:3.0f} %", 100 * share(state));
    if (state.steps()) {
      auto digits = std::to_string(state.total).size();
      figures += std::format("  {:{}} of {}", state.done, digits, state.total);
    } else {
      figures += std::format("  {:>12}", state.done > 0 ? rate(state) : "");
    }
    // Earlier than that a guess only jumps about.
    bool known = state.seconds() > 1 && state.done > 0;
    return figures + std::format("  {:>10}", known ? clock_time(seconds_left(state)) + " left" : "");
  }

  static double seconds_left(const State& state) { return state.seconds() * (1 / share(state) - 1); }

  static size_t columns() {
    winsize size = {};
    bool known = ::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0;
    return known ? size.ws_col : 80;
  }

  static constexpr size_t kLeastBar = 10;
};

class Plain : public Phases {
 public:
  void note(std::string_view line) override { put(std::format("{}\n", line)); }

 private:
  void begun(const State& state) override { note(state.phase + " ..."); }
  void update(const State&) override {}
  void ended(const State& state) override { note(summary(state)); }
};

class Json : public Phases {
 public:
  void note(std::string_view line) override { print({{"note", line}}); }

 private:
  void begun(const State& state) override { print(fields(state)); }
  void update(const State& state) override { print(fields(state)); }
  void ended(const State& state) override {
    nlohmann::ordered_json line = fields(state);
    line["seconds"] = state.seconds();
    line["failed"] = state.failed();
    print(line);
  }

  static nlohmann::ordered_json fields(const State& state) {
    return {{"phase", state.phase}, {"done", state.done}, {"total", state.total}};
  }
  static void print(const nlohmann::ordered_json& line) {
    put(line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
  }
};

class Silent : public Progress {
 public:
  void begin(std::string_view, uint64_t) override {}
  void at(uint64_t) override {}
  void end() override {}
  void note(std::string_view) override {}
};

}  // namespace

std::unique_ptr<Progress> make_progress(Talk talk) {
  switch (talk) {
    case Talk::kBar:
      return std::make_unique<Bar>();
    case Talk::kPlain:
      return std::make_unique<Plain>();
    case Talk::kJson:
      return std::make_unique<Json>();
    case Talk::kSilent:
      break;
  }
  return std::make_unique<Silent>();
}

Talk default_talk(bool json) {
  if (json) return Talk::kJson;
  return ::isatty(STDERR_FILENO) == 1 ? Talk::kBar : Talk::kPlain;
}

std::string human_size(uint64_t bytes) {
  if (bytes < 1024) return std::format("{} B", bytes);
  double size = static_cast<double>(bytes) / 1024;
  for (std::string_view unit : {"KiB", "MiB", "GiB", "TiB"}) {
    if (size < 1023.95) return std::format("{:.1f} {}", size, unit);
    size /= 1024;
  }
  return std::format("{:.1f} PiB", size);
}

}  // namespace base
