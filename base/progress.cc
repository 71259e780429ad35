#include "base/progress.h"

#include <nlohmann/json.hpp>
#include <signal.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <exception>
#include <format>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>
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
  /// 0 when it is not known.
  [[nodiscard]] double share() const {
    return total == 0 ? 0 : std::min(1.0, static_cast<double>(done) / static_cast<double>(total));
  }
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
    {
      std::scoped_lock lock(mutex_);
      if (phases_.empty()) whole_.begin(phase);
      phases_.push_back({.phase = std::string(phase), .total = total});
      shown_ = steady_clock::now();
      begun(phases_.back());
    }
    active(true);
  }
  void of(uint64_t total) final {
    std::scoped_lock lock(mutex_);
    if (!phases_.empty()) phases_.back().total = total;
  }
  void at(uint64_t done) final {
    std::scoped_lock lock(mutex_);
    if (phases_.empty()) return;
    phases_.back().done = done;
    update_if(kBetweenUpdates);
  }
  void end() final {
    bool more = true;
    {
      std::scoped_lock lock(mutex_);
      if (phases_.empty()) return;
      State state = std::move(phases_.back());
      phases_.pop_back();
      more = !phases_.empty();
      if (!more) whole_.end(state.phase, state.seconds());
      ended(state);
    }
    if (!more) active(false);
  }
  void note(std::string_view line) final {
    std::scoped_lock lock(mutex_);
    say(line);
  }
  void begin_whole(std::string_view what, std::vector<PhaseTime> expected) final {
    std::scoped_lock lock(mutex_);
    whole_ = Whole(std::string(what), std::move(expected));
    whole_begun_ = steady_clock::now();
    whole_done_ = 0;
  }
  std::vector<PhaseTime> end_whole() final {
    std::scoped_lock lock(mutex_);
    return std::exchange(whole_, {}).took();
  }

 protected:
  /// Seconds left, and the share of all that is done; which never falls, as bars that go back worry people.
  struct Standing {
    double left, done;
  };
  [[nodiscard]] const Whole& whole() const { return whole_; }
  Standing standing() {
    double left =
        phases_.empty() ? whole_.left(0, 0) : whole_.left(phases_.front().seconds(), phases_.front().share());
    double spent = std::chrono::duration<double>(steady_clock::now() - whole_begun_).count();
    whole_done_ = std::max(whole_done_, spent / std::max(spent + left, 0.001));
    return {.left = left, .done = whole_done_};
  }
  /// Shows where it is when that was not shown for so long.
  void update_if(std::chrono::milliseconds since) {
    auto now = steady_clock::now();
    if (phases_.empty() || now - shown_ < since) return;
    shown_ = now;
    update(phases_.back());
  }
  std::mutex mutex_;

 private:
  virtual void begun(const State& state) = 0;
  virtual void update(const State& state) = 0;
  virtual void ended(const State& state) = 0;
  virtual void say(std::string_view line) = 0;
  /// There is a phase now, or there is none any more; called without the lock.
  virtual void active(bool) {}

  std::vector<State> phases_;
  steady_clock::time_point shown_;
  Whole whole_;
  steady_clock::time_point whole_begun_;
  double whole_done_ = 0;
};

class Bar : public Phases {
 public:
  ~Bar() override { active(false); }

 private:
  static constexpr std::string_view kClear = "\r\x1b[K";
  static constexpr auto kTick = std::chrono::seconds(1);
  static constexpr size_t kLeastBar = 10;

  void say(std::string_view line) override { put(std::format("{}{}\n", kClear, line)); }
  void begun(const State& state) override { update(state); }
  void ended(const State& state) override { say(summary(state)); }

  /// Time goes on also where nothing is reported, as while another program works. The thread is there within
  /// phases only: some steps before them need a process with a single one.
  void active(bool on) override {
    if (on == ticker_.joinable()) return;
    if (!on) {
      ticker_ = {};  // asks it to stop, and waits
      return;
    }
    sigset_t all, before;
    ::sigfillset(&all);
    ::pthread_sigmask(SIG_SETMASK, &all, &before);  // signals are the main thread's
    ticker_ = std::jthread([this](const std::stop_token& stop) {
      std::unique_lock lock(mutex_);
      while (!stop.stop_requested()) {
        wake_.wait_for(lock, stop, kTick, [] { return false; });
        if (!stop.stop_requested()) update_if(kTick);
      }
    });
    ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }

  void update(const State& state) override {
    put(std::string(kClear) + (whole().what().empty() ? line_of(state) : line_of_whole(state)));
  }

  /// "phase [bar] figures", one column short of the edge, so that no line wraps.
  static std::string line_of(const State& state) {
    std::string figures = state.total == 0 ? so_far(state) : of_total(state);
    return fitted(state.phase, state.total > 0 ? std::optional(state.share()) : std::nullopt, figures);
  }

  /// "what [bar] share, time left, phase and what is known of it"
  std::string line_of_whole(const State& state) {
    auto [left, done] = standing();
    std::string phase = state.phase + "  ";
    phase += state.share() > 0 ? std::format("{:.0f} %", 100 * state.share()) : clock_time(state.seconds());
    return fitted(
        whole().what(), done,
        std::format("{:3.0f} %  {:>10}  {:<{}}", 100 * done, clock_time(left) + " left", phase, kPhase));
  }

  /// A bar of up to 40 cells where there is room for one.
  static std::string fitted(const std::string& name, std::optional<double> share,
                            const std::string& figures) {
    size_t width = terminal_columns(STDERR_FILENO) - 1, taken = name.size() + figures.size() + 4;
    std::string line = name + " ";
    if (share && width >= taken + kLeastBar) {
      size_t cells = std::min<size_t>(width - taken, 40);
      size_t full = static_cast<size_t>(*share * static_cast<double>(cells));
      line += "[" + std::string(full, '#') + std::string(cells - full, '-') + "] ";
    }
    return (line + figures).substr(0, width);
  }

  static std::string so_far(const State& state) {
    if (state.done == 0) return clock_time(state.seconds());
    if (state.steps()) return std::format("{}  {}", state.done, clock_time(state.seconds()));
    return std::format("{}  {}  {}", human_size(state.done), rate(state), clock_time(state.seconds()));
  }

  /// Each figure has a fixed width, so that the bar keeps its own.
  static std::string of_total(const State& state) {
    std::string figures = std::format("{:3.0f} %", 100 * state.share());
    if (state.steps()) {
      auto digits = std::to_string(state.total).size();
      figures += std::format("  {:{}} of {}", state.done, digits, state.total);
    } else {
      figures += std::format("  {:>12}", state.done > 0 ? rate(state) : "");
    }
    // Earlier than that a guess only jumps about.
    bool known = state.seconds() > 1 && state.done > 0;
    double left = state.seconds() * (1 / std::max(state.share(), 1e-9) - 1);
    return figures + std::format("  {:>10}", known ? clock_time(left) + " left" : "");
  }

  static constexpr size_t kPhase = 24;  ///< columns for the longest phase

  std::condition_variable_any wake_;
  std::jthread ticker_;
};

class Plain : public Phases {
  void say(std::string_view line) override { put(std::format("{}\n", line)); }
  void begun(const State& state) override { say(state.phase + " ..."); }
  void update(const State&) override {}
  void ended(const State& state) override { say(summary(state)); }
};

class Json : public Phases {
  void say(std::string_view line) override { print({{"note", line}}); }
  void begun(const State& state) override { print(fields(state)); }
  void update(const State& state) override { print(fields(state)); }
  void ended(const State& state) override {
    nlohmann::ordered_json line = fields(state);
    line["seconds"] = state.seconds();
    line["failed"] = state.failed();
    print(line);
  }

  nlohmann::ordered_json fields(const State& state) {
    nlohmann::ordered_json line = {{"phase", state.phase}, {"done", state.done}, {"total", state.total}};
    if (whole().what().empty()) return line;
    auto [left, done] = standing();
    line["whole_done"] = done;
    line["whole_left"] = left;
    return line;
  }
  static void print(const nlohmann::ordered_json& line) {
    put(line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
  }
};

class Silent : public Phases {
  void say(std::string_view) override {}
  void begun(const State&) override {}
  void update(const State&) override {}
  void ended(const State&) override {}
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

size_t terminal_columns(int fd) {
  winsize size = {};
  bool known = ::ioctl(fd, TIOCGWINSZ, &size) == 0 && size.ws_col > 0;
  return known ? size.ws_col : 80;
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
