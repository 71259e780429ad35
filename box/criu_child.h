#pragma once
#include <sys/types.h>

#include <chrono>
#include <functional>
#include <span>
#include <string>

#include "base/fd.h"

namespace box {

/// One of CRIU's notifications, and what we do while CRIU waits at it.
struct Halt {
  const char* action;
  std::function<void()> work;
};

/// What CRIU is to do.
struct CriuWork {
  std::string what;  ///< for messages: "freeze the box into images"
  std::string log, lock;
  std::span<const Halt> halts;
  std::function<void()> prepare;  ///< in the child, at once
  std::function<int(char)>
      request;  ///< in the child, later: returns libcriu's result, has told it of on_notify
  std::function<void()> check = {};  ///< often while CRIU works: what it throws ends the work
  /// A CRIU that has not run for so long hangs, which ends the work.
  std::chrono::seconds patience = std::chrono::minutes(10);
};

/// A child of ours that has CRIU do it, so that a CRIU that hangs does not hang us, and so that it can enter
/// the box's control group. CRIU holds the lock as long as it lives. Where the work ends early, CRIU takes
/// back what it did, and is killed only when it hangs.
class CriuChild {
 public:
  explicit CriuChild(CriuWork work);
  CriuChild(const CriuChild&) = delete;
  CriuChild& operator=(const CriuChild&) = delete;
  /// Ends one that has not run.
  ~CriuChild();
  /// Once. `told` is for `request`. At a notification of CRIU's that is among the halts the child waits while
  /// its work runs here; what that throws makes CRIU give up, and is thrown.
  void run(char told);

 private:
  void wait();

  const CriuWork work_;
  base::Pipe question_, answer_;
  pid_t child_ = -1;
  int status_ = 0;
};

int on_notify(const char* action);

/// Starts CRIU, as libcriu would when there is a request (swrk_connect() of its lib/c/criu.c): it waits for
/// one at the socket that is returned (criu_local_set_service_fd), where nothing more comes when CRIU has
/// ended. -1: it cannot be started.
int start_criu(const std::string& program);

}  // namespace box
