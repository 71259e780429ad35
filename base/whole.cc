#include "base/whole.h"

#include <algorithm>

namespace base {

void Whole::begin(std::string_view phase) {
  current_ = 0;
  for (size_t i = next_; i < expected_.size(); ++i) {
    if (expected_[i].phase != phase) continue;
    current_ = expected_[i].seconds;
    next_ = i + 1;
    return;
  }
}

void Whole::end(std::string_view phase, double seconds) {
  current_ = 0;
  took_.push_back({.phase = std::string(phase), .seconds = seconds});
}

double Whole::left(double seconds, double share) const {
  // What is seen of a phase is better than what was expected of it, once there is enough to see.
  constexpr double kSeen = 0.1;
  double left = share >= kSeen ? seconds * (1 / share - 1) : std::max(0.0, current_ - seconds);
  for (size_t i = next_; i < expected_.size(); ++i) left += expected_[i].seconds;
  return left;
}

}  // namespace base
