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

/// What CRIU is to do, by a child of ours: so a CRIU that hangs does not hang us.
struct CriuWork {
  std::string what;  ///< for messages: "freeze the box into images"
  std::string log, lock;
  std::span<const Halt> halts;
  std::function<void()> prepare;     ///< in the child, at once
  std::function<char()> meanwhile;   ///< here, beside that; `request` is told its result
  std::function<int(char)> request;  ///< in the child: returns libcriu's result, has told it of on_notify
};
/// At a notification of CRIU's that is among `halts` the child waits while its work runs here; what that
/// throws makes CRIU give up, and is thrown. CRIU holds `lock` as long as it lives.
void in_child(const CriuWork& work);
int on_notify(const char* action);

/// Starts CRIU, as libcriu would when there is a request (swrk_connect() of its lib/c/criu.c): it waits for
/// one at the socket that is returned (criu_local_set_service_fd). -1: it cannot be started.
int start_criu(const std::string& program);

}  // namespace box
