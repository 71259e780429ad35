#pragma once
#include <functional>
#include <string>
#include <vector>

namespace base {

/// The inverses of the steps of an operation, run last-first unless `commit` was called.
/// Covers errors; `Journal` covers crashes. An inverse that throws is logged and the rest
/// still run.
class [[nodiscard]] Undo {
 public:
  Undo() = default;
  Undo(const Undo&) = delete;
  Undo& operator=(const Undo&) = delete;
  ~Undo() { roll_back(); }

  void add(std::string what, std::function<void()> inverse);
  /// The operation stands: nothing is undone any more.
  void commit() { steps_.clear(); }
  /// Runs the inverses now. Returns false when one of them failed.
  bool roll_back() noexcept;

 private:
  struct Step {
    std::string what;
    std::function<void()> inverse;
  };
  std::vector<Step> steps_;
};

}  // namespace base
