#include "base/undo.h"

#include <exception>

#include "base/context.h"
#include "base/log.h"

namespace base {

void Undo::add(std::string what, std::function<void()> inverse) {
  steps_.push_back({.what = std::move(what), .inverse = std::move(inverse)});
}

bool Undo::roll_back() noexcept {
  NoInterrupt uninterrupted;
  bool complete = true;
  while (!steps_.empty()) {
    Step step = std::move(steps_.back());
    steps_.pop_back();
    try {
      debug("undo: {}", step.what);
      step.inverse();
    } catch (const std::exception& e) {
      complete = false;
      warn("cannot undo: {}: {}", step.what, e.what());
    }
  }
  return complete;
}

}  // namespace base
