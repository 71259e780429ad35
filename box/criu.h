#pragma once
#include <sys/types.h>

#include <string>
#include <vector>

#include "base/fd.h"

namespace box {

std::string criu_version();
/// In ms: how long CRIU takes on this node to start and to answer, at the best of some times. Machines differ
/// in what a process, a page fault and a system call cost by a factor of ten and more, and in this as in what
/// dump and restore take.
double criu_start_ms();
/// Whether this node can restore a box before its memory is here (userfaultfd(2) with fork, remap and unmap
/// events).
bool can_restore_lazily();

/// After a crash of ours CRIU may still be at work on the box, and letting go of it. Returns when
/// nobody holds `lock` any more; throws after a minute.
void wait_for_criu(const std::string& lock);

/// Options that libcriu 4.2 has no call for go through a configuration file (criu(8)), here one
/// in memory.
class ConfigFile {
 public:
  explicit ConfigFile(const std::string& text);
  [[nodiscard]] const char* path() const { return path_.c_str(); }

 private:
  base::Fd fd_;
  std::string path_;
};

/// What CRIU is asked for, through its library (criu(8), libcriu 4.2). What it asks back goes to on_notify()
/// of criu_child.h. All that is named lives as long as the request.
struct CriuRequest {
  int service;       ///< of start_criu(), in this process
  int images, work;  ///< directories, as in DumpRequest
  const ConfigFile& config;
  bool no_network = false;            ///< the network namespace is carried by us
  std::vector<std::string> external;  ///< what is not the box's, as criu(8) has it
};
struct CriuDump : CriuRequest {
  pid_t init;
  std::string cgroup;
  bool inner_connections;  ///< has connections of which both ends are in the box
};
struct CriuRestore : CriuRequest {
  std::string root;
  bool close_connections;
};
/// Returns when CRIU has ended. Negative: it failed; CRIU's log says why.
int request(const CriuDump& dump);
int request(const CriuRestore& restore);

}  // namespace box
