#pragma once
#include <functional>
#include <span>
#include <string>

namespace box {

/// One of CRIU's notifications, and what we do while CRIU waits at it.
struct Halt {
  const char* action;
  std::function<void()> work;
};

/// Runs `request` in a child of its own, so that a CRIU that hangs does not hang us, and so that
/// it can enter the box's control group. At a notification of CRIU's that is among `halts` the child waits
/// while `work` runs here; what that throws makes CRIU give up, and is thrown. `request` returns libcriu's
/// result, and has told libcriu of on_notify. CRIU holds `lock` as long as it lives.
void in_child(const std::string& what, const std::string& log, const std::string& lock,
              std::span<const Halt> halts, const std::function<int()>& request);
int on_notify(const char* action);

}  // namespace box
