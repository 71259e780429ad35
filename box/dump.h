#pragma once
#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

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
  std::function<void()> check = {};  ///< often meanwhile: what it throws ends the dump
};

/// All that follows from whose it is; not lazy. An interrupt ends it.
DumpRequest dump_of(const Paths& paths, const Config& config, pid_t init);

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

}  // namespace box
