#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/whole.h"

namespace base {

/// Where long work tells how far it is. Library code never prints: it reports here.
/// Calls come from one thread at a time.
class Progress {
 public:
  virtual ~Progress() = default;
  /// Begins a phase, perhaps within another one. `total` in bytes, or in steps when it is
  /// below 4096; 0 when it is not known.
  virtual void begin(std::string_view phase, uint64_t total) = 0;
  /// The phase's total, where that is known only after it has begun.
  virtual void of(uint64_t total) = 0;
  /// So much of the phase is done (absolute, not an increment).
  virtual void at(uint64_t done) = 0;
  virtual void end() = 0;
  /// One line of talk that belongs to no phase.
  virtual void note(std::string_view line) = 0;
  /// The phases from here on, outermost ones, are parts of `what`, and expected to take so long.
  virtual void begin_whole(std::string_view what, std::vector<PhaseTime> expected) = 0;
  /// What they took.
  virtual std::vector<PhaseTime> end_whole() = 0;
};

enum class Talk { kBar, kPlain, kJson, kSilent };

/// A bar with %, rate and time left, of the whole where there is one; plain lines; JSON lines
/// `{"phase":…,"done":…,"total":…}`, with `"seconds"` and `"failed"` at the end, and of a whole
/// `"whole_done"` (0 to 1) and `"whole_left"` (seconds) besides; or nothing. All of them write to stderr, at
/// most ten times a second but for begin and end; a bar also once a second when nothing is reported.
std::unique_ptr<Progress> make_progress(Talk talk);
/// kBar on a terminal, kPlain elsewhere, kJson where `json`.
Talk default_talk(bool json);

/// Of the terminal that the descriptor is; 80 where it is none.
size_t terminal_columns(int fd);

/// "1.4 GiB"; up to 1023 as "17 B".
std::string human_size(uint64_t bytes);

/// Begins a phase and ends it on every way out.
class [[nodiscard]] Phase {
 public:
  Phase(Progress& progress, std::string_view name, uint64_t total = 0) : progress_(progress) {
    progress_.begin(name, total);
  }
  Phase(const Phase&) = delete;
  Phase& operator=(const Phase&) = delete;
  ~Phase() { progress_.end(); }
  void at(uint64_t done) { progress_.at(done); }

 private:
  Progress& progress_;
};

/// Phases as parts of a whole, until end() or the end of the scope.
class [[nodiscard]] WholeWork {
 public:
  WholeWork(Progress& progress, std::string_view what, std::vector<PhaseTime> expected)
      : progress_(progress) {
    progress_.begin_whole(what, std::move(expected));
  }
  WholeWork(const WholeWork&) = delete;
  WholeWork& operator=(const WholeWork&) = delete;
  ~WholeWork() { end(); }
  /// What the phases took; nothing when it was asked before.
  std::vector<PhaseTime> end() {
    return std::exchange(on_, false) ? progress_.end_whole() : std::vector<PhaseTime>();
  }

 private:
  Progress& progress_;
  bool on_ = true;
};

}  // namespace base
