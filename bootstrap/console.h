#pragma once
#include <format>
#include <functional>
#include <string>
#include <string_view>

namespace bootstrap {

/// One line on the console and in the kernel's log, from where the journal has it later: "drover: …". Never
/// fails: there is nobody to tell.
void say(std::string_view line);

template <class... Args>
void say(std::format_string<Args...> format, Args&&... args) {
  say(std::string_view(std::format(format, std::forward<Args>(args)...)));
}

/// Runs `body` as process 1, which replaces itself in it and does not return. Whatever goes wrong is said,
/// and the machine starts again after kRestartSeconds, so that the loader counts a try less: nothing waits
/// for a keyboard.
[[noreturn]] void as_process_one(std::string_view what, const std::function<void()>& body);
constexpr int kRestartSeconds = 10;

}  // namespace bootstrap
