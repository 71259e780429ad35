#pragma once
#include <format>
#include <string>
#include <string_view>

namespace base {

/// Diagnostics for people who look into what happened: one line on stderr when verbose, and
/// always for warnings. Not the product's output.
void set_verbose(bool on);
/// Lines become {"warning": "…"} and {"debug": "…"}, as all talk does with --json.
void set_log_json(bool on);
void log_debug(std::string_view line);
void log_warning(std::string_view line);

template <class... Args>
void debug(std::format_string<Args...> fmt, Args&&... args) {
  log_debug(std::format(fmt, std::forward<Args>(args)...));
}
template <class... Args>
void warn(std::format_string<Args...> fmt, Args&&... args) {
  log_warning(std::format(fmt, std::forward<Args>(args)...));
}

}  // namespace base
