#pragma once
#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "box/cgroup.h"
#include "box/config.h"
#include "box/node.h"

namespace box {

/// The most that a deleted file may take on disk for a dump to take it along: CRIU counts in 32 bits.
inline constexpr uint64_t kMostGhostBytes = UINT32_MAX;

struct DumpRequest {
  pid_t init;               ///< process 1 of the box
  std::string images;       ///< directory for the images
  std::string work;         ///< directory of this box for what else CRIU leaves
  std::string log;          ///< file for CRIU's log
  std::string root;         ///< the box's root, as mounted on the node
  std::string cgroup;       ///< frozen before, and left frozen
  std::string host_end;     ///< of the box's veth
  std::string lock;         ///< held by CRIU's processes, see wait_for_criu
  uint32_t id_base;         ///< the box's ids begin there
  bool own_groups = false;  ///< the box divides its control group itself
  /// Leaves the private anonymous memory where it is: the images only say where there is some
  /// (post-copy). Nobody else may write to it before it was read.
  bool lazy = false;
};

struct RestoreRequest {
  std::string images;  ///< shared with the box: its own tasks read some of them
  /// As above. Of a lazy box CRIU connects to the socket kPagerSocket in it, and hands over each
  /// task's userfaultfd(2).
  std::string work;
  std::string log;
  std::string root;
  std::string cgroup;  ///< exists and is empty; frozen afterwards
  Config config;       ///< the box's cable is made by it, shut
  std::string lock;    ///< as above
  bool lazy = false;   ///< as above
  /// TCP connections come back closed, listening sockets as they were: the other ends have gone on without
  /// it.
  bool close_connections = false;
};

/// All that follows from whose they are; neither lazy nor with closed connections.
DumpRequest dump_of(const Paths& paths, const Config& config, pid_t init);
RestoreRequest restore_of(const Paths& paths, const Config& config);

/// The name is CRIU's (criu/include/uffd.h, 4.2).
inline constexpr const char* kPagerSocket = "lazy-pages.socket";

/// Freezes a box's processes into files, by CRIU through its library (criu(8), libcriu 4.2). A failure
/// carries CRIU's own error lines and the path of its log.
class Dump {
 public:
  /// Starts CRIU, which takes some 10 ms: best before the box is frozen.
  explicit Dump(DumpRequest request);
  Dump(const Dump&) = delete;
  Dump& operator=(const Dump&) = delete;
  ~Dump();
  /// Of the frozen box, once. It stays as it is: its processes are held by the freezer, with all connections.
  /// `when_dumped` runs at the moment that the images belong to: the files of the private layer
  /// that they name are there then (CRIU gives deleted files a name for as long), and not later.
  void run(std::function<void()> when_dumped);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// Makes the processes again, by CRIU: frozen. Not one instruction of the box has run when it returns, with
/// process 1.
pid_t restore(const RestoreRequest& request);

std::string criu_version();
/// Whether this node can restore a box before its memory is here (userfaultfd(2) with fork, remap and unmap
/// events).
bool can_restore_lazily();

/// After a crash of ours CRIU may still be at work on the box, and letting go of it. Returns when
/// nobody holds `lock` any more; throws after a minute.
void wait_for_criu(const std::string& lock);

}  // namespace box
