#pragma once
#include <sys/types.h>

#include <chrono>
#include <functional>
#include <string>
#include <vector>

#include "box/cgroup.h"

namespace box {

struct DumpRequest {
  pid_t init;            ///< process 1 of the box
  std::string images;    ///< directory for the images
  std::string log;       ///< file for CRIU's log
  std::string root;      ///< the box's root, as mounted on the node
  std::string cgroup;    ///< frozen before, and left frozen
  std::string host_end;  ///< of the box's veth
  std::string lock;      ///< held by CRIU's processes, see wait_for_criu
};

struct RestoreRequest {
  std::string images;  ///< shared with the box: its own tasks read some of them
  std::string log;
  std::string root;
  std::string cgroup;     ///< exists and is empty; frozen afterwards
  uint32_t id_base;       ///< the box's ids begin there
  std::string other_end;  ///< of the veth pair that waits for the box: becomes its eth0
  std::string lock;       ///< as above
};

/// Freezes a box's processes into files and makes processes of them again. An interface,
/// because a box in a virtual machine or a test would do it in another way.
class Checkpointer {
 public:
  virtual ~Checkpointer() = default;
  [[nodiscard]] virtual std::string version() = 0;
  /// The box stays as it is: its processes are held by the freezer, with all connections.
  /// `when_dumped` runs at the moment that the images belong to: the files of the private layer
  /// that they name are there then (CRIU gives deleted files a name for as long), and not later.
  virtual void dump(const DumpRequest& request, const std::function<void()>& when_dumped) = 0;
  /// Makes the processes, frozen: not one instruction of the box has run when it returns.
  virtual pid_t restore(const RestoreRequest& request) = 0;
};

/// CRIU through its library (criu(8), libcriu 4.2). A failure carries CRIU's own error lines
/// and the path of its log.
class Criu : public Checkpointer {
 public:
  std::string version() override;
  void dump(const DumpRequest& request, const std::function<void()>& when_dumped) override;
  pid_t restore(const RestoreRequest& request) override;
};

/// After a crash of ours CRIU may still be at work on the box, and letting go of it. Returns when
/// nobody holds `lock` any more; throws after a minute.
void wait_for_criu(const std::string& lock);

}  // namespace box
