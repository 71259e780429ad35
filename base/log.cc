#include "base/log.h"

#include <nlohmann/json.hpp>
#include <unistd.h>

#include <atomic>

namespace base {
namespace {

std::atomic<bool> verbose = false;
std::atomic<bool> json = false;

std::string as_json(std::string_view level, std::string_view line) {
  const nlohmann::json text = {{level, line}};
  return text.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

/// One write, so that lines of several threads and processes do not mix. On a
/// terminal it first wipes the progress bar that may stand there.
void put(std::string_view level, std::string_view line) {
  static const bool terminal = ::isatty(STDERR_FILENO) == 1;
  std::string plain = std::format("{}{}: {}\n", terminal ? "\r\x1b[K" : "", level, line);
  std::string text = json ? as_json(level, line) : plain;
  [[maybe_unused]] ssize_t written = ::write(STDERR_FILENO, text.data(), text.size());
}

}  // namespace

void set_verbose(bool on) { verbose = on; }
void set_log_json(bool on) { json = on; }

void log_debug(std::string_view line) {
  if (verbose) put("debug", line);
}

void log_warning(std::string_view line) { put("warning", line); }

}  // namespace base
