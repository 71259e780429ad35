#pragma once
#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>

#include "migrate/file_extents.h"

namespace migrate {

/// Which blocks of large files are written, so that a round reads those and not all of the file. The kernel
/// tells by trace points (perf_event_open(2)) when it marks a page of a file's cache as no longer on the
/// disk, when a direct write is over (or a direct read: it does not say which), and when blocks are moved
/// within a file. Who brought a file to the disk after `take()` and then noted where it lies (`extents_of()`)
/// knows: at the next `take()`, a block that lies there still and is not told has the same content. Needs an
/// ext4 and Linux 6.6.
///
/// A thread takes the events off the kernel's buffers; these go away with the process.
class BlockWatch {
 public:
  /// Follows no file yet. nullptr where this kernel or file system cannot tell (the reason goes to the log).
  /// `root` is a directory of the file system. `buffer`: bytes for the events of each processor, a power of
  /// two; 0: as many as are good for them all.
  static std::unique_ptr<BlockWatch> start(int root, size_t buffer = 0);
  ~BlockWatch();
  BlockWatch(const BlockWatch&) = delete;
  BlockWatch& operator=(const BlockWatch&) = delete;

  /// From now on also these, by inode number, with their sizes: the largest ones, as many as there is room
  /// for. Those that are followed stay.
  void follow(const std::map<ino_t, uint64_t>& files);
  [[nodiscard]] bool follows(ino_t ino) const;

  struct Written {
    uint64_t number = 0;  ///< of this call; never 0, and never the same for two
    uint64_t since = 0;   ///< of the one that `blocks` begins at; 0: nobody knows what was written
    BlockRanges blocks;   ///< more may be named than was written, never less
  };
  /// What was written to a file that is followed since the call before for the same file.
  Written take(ino_t ino);

 private:
  struct Events;
  struct State;
  explicit BlockWatch(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace migrate
