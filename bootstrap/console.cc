#include "bootstrap/console.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/reboot.h>
#include <unistd.h>

#include <algorithm>

#include "base/error.h"
#include "base/fd.h"

namespace bootstrap {
namespace {

void write_line(const char* path, std::string_view text) {
  base::Fd file(::open(path, O_WRONLY | O_NOCTTY | O_CLOEXEC));
  if (file) [[maybe_unused]]
    ssize_t written = ::write(file.get(), text.data(), text.size());
}

/// "error: …\n  while …\nhint: …\n" as one line, since consoles and logs have lines.
std::string one_line(std::string text) {
  while (text.ends_with('\n')) text.pop_back();
  std::string line;
  for (char c : text) {
    if (c == '\n') line += ';';
    line += c == '\n' ? ' ' : c;
  }
  return line;
}

[[noreturn]] void restart(std::string_view what, const std::string& reason) {
  say("{}: {}", what, one_line(reason));
  say("the machine starts again in {} seconds", kRestartSeconds);
  ::sync();
  ::sleep(kRestartSeconds);
  ::reboot(RB_AUTOBOOT);
  while (true) ::pause();  // a machine that cannot restart; process 1 must not end
}

}  // namespace

void say(std::string_view line) {
  // <5>, a notice: where the command line has "quiet", the kernel does not put it on the console a second
  // time.
  write_line("/dev/kmsg", std::format("<5>drover: {}\n", line));
  write_line("/dev/console", std::format("drover: {}\r\n", line));
}

void as_process_one(std::string_view what, const std::function<void()>& body) {
  ::signal(SIGPIPE, SIG_IGN);
  try {
    body();
    restart(what, "this came to its end without a system to start");
  } catch (const base::Error& error) {
    restart(what, error.render());
  } catch (const std::exception& error) {
    restart(what, error.what());
  }
}

}  // namespace bootstrap
