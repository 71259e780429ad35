#pragma once
#include <string>
#include <string_view>
#include <vector>

namespace base {

/// A phase of work, and the seconds that it takes or took.
struct PhaseTime {
  std::string phase;
  double seconds = 0;
  bool operator==(const PhaseTime&) const = default;
};

/// How far work of several phases is, by the seconds that each is expected to take. Phases come in the
/// expected order; those that are left out count as done, and one that nobody expects adds its own time.
class Whole {
 public:
  Whole() = default;
  Whole(std::string what, std::vector<PhaseTime> expected)
      : what_(std::move(what)), expected_(std::move(expected)) {}

  /// What the phases are parts of; empty when there is nothing.
  [[nodiscard]] const std::string& what() const { return what_; }
  void begin(std::string_view phase);
  void end(std::string_view phase, double seconds);
  /// The phases that have ended, and what they took.
  [[nodiscard]] const std::vector<PhaseTime>& took() const { return took_; }

  /// Seconds until the end. The phase that was begun last is on for `seconds`, and `share` of it is done;
  /// 0 when nobody knows.
  [[nodiscard]] double left(double seconds, double share) const;

 private:
  std::string what_;
  std::vector<PhaseTime> expected_, took_;
  size_t next_ = 0;     ///< in expected_
  double current_ = 0;  ///< expected seconds of the phase that is on
};

}  // namespace base
