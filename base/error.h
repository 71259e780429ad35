#pragma once
#include <cerrno>
#include <exception>
#include <format>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace base {

/// What a program of drover ends with; the same in every man page.
enum class Exit : int {
  kDone = 0,
  kFailed = 1,  ///< failed, nothing changed
  kUsage = 2,
  kRolledBack = 3,    ///< failed and rolled back
  kNeedsRecover = 4,  ///< roll-back incomplete: `recover` finishes it
  kInterrupted = 130,
};

/// The one exception type. Carries a sentence, an errno (0: none), the contexts
/// that stage boundaries added from the inside out, an optional hint, an exit code.
class Error : public std::exception {
 public:
  explicit Error(std::string message, int err = 0);

  Error& context(std::string what) &;  ///< "moving box web1": printed as "while moving box web1"
  Error&& context(std::string what) &&;
  Error&& hint(std::string text) &&;
  Error&& exit(Exit code) &&;
  Error& exit(Exit code) &;

  [[nodiscard]] const std::string& message() const { return message_; }
  [[nodiscard]] int err() const { return err_; }
  [[nodiscard]] const std::vector<std::string>& contexts() const { return contexts_; }
  [[nodiscard]] const std::string& hint() const { return hint_; }
  [[nodiscard]] Exit exit() const { return exit_; }

  /// The message alone. `render()` is what a person reads.
  [[nodiscard]] const char* what() const noexcept override { return message_.c_str(); }
  /// "error: …\n  while …\nhint: …\n"
  [[nodiscard]] std::string render() const;

 private:
  std::string message_;
  int err_;
  std::vector<std::string> contexts_;
  std::string hint_;
  Exit exit_ = Exit::kFailed;
};

/// An Error for a system call that has just failed: errno is taken at once and its
/// text put behind the message ("cannot open /x: No such file or directory").
template <class... Args>
[[nodiscard]] Error sys_error(std::format_string<Args...> fmt, Args&&... args) {
  int err = errno;
  return Error(std::format(fmt, std::forward<Args>(args)...), err);
}

/// An Error without an errno.
template <class... Args>
[[nodiscard]] Error error(std::format_string<Args...> fmt, Args&&... args) {
  return Error(std::format(fmt, std::forward<Args>(args)...));
}

/// What was caught, as an Error: also what the standard library throws where no thread or no memory is left.
[[nodiscard]] Error as_error(const std::exception& caught);

/// Runs `body`; an Error that leaves it gets `what` as one more context.
template <class Body>
decltype(auto) in_context(std::string_view what, Body&& body) {
  try {
    return std::forward<Body>(body)();
  } catch (Error& e) {
    e.context(std::string(what));
    throw;
  }
}

}  // namespace base
