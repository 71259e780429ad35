#pragma once
#include <sys/types.h>

#include <functional>
#include <string>

#include "box/config.h"
#include "box/node.h"

namespace box {

/// The name is CRIU's (criu/include/uffd.h, 4.2).
inline constexpr const char* kPagerSocket = "lazy-pages.socket";

struct RestoreRequest {
  std::string images;  ///< shared with the box: its own tasks read some of them
  /// As in DumpRequest. Of a lazy box CRIU connects to the socket kPagerSocket in it, and hands over each
  /// task's userfaultfd(2).
  std::string work;
  std::string log;
  std::string root;
  std::string cgroup;  ///< exists and is empty; frozen afterwards
  Config config;       ///< the box's cable is made by it, shut
  std::string lock;    ///< as in DumpRequest
  bool lazy = false;   ///< likewise
  /// TCP connections come back closed, listening sockets as they were: the other ends have gone on without
  /// it.
  bool close_connections = false;
  /// Called several times a second while CRIU works: what it throws ends the restore.
  std::function<void()> check = {};
};

/// All that follows from whose it is; neither lazy nor with closed connections.
RestoreRequest restore_of(const Paths& paths, const Config& config);

/// Makes the processes again, by CRIU: frozen. Not one instruction of the box has run when it returns, with
/// process 1.
pid_t restore(const RestoreRequest& request);

}  // namespace box
