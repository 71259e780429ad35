#pragma once
#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>

#include "migrate/file_extents.h"

namespace migrate {

/// Which blocks of large files are written, so that a round reads those and not all of the file. The kernel
/// tells by trace points when it marks a page of a file's cache as no longer on the disk, when a direct write
/// is over (or a direct read: it does not say which), and when blocks are moved within a file. A block that
/// was not told since the file was last brought to disk, and lies there where it lay, has the content that it
/// had. Needs an ext4 and Linux 6.6.
///
/// A thread takes the events off the kernel's buffers.
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

  /// A file of `size` bytes is about to be read: what may differ from what it was at the look `before`;
  /// nullopt: anything, or it is not followed. Unless it is `frozen`, it is brought to disk first. `now` is
  /// for the next look.
  std::optional<BlockRanges> look(int fd, ino_t ino, uint64_t size, bool frozen, const FileLook* before,
                                  FileLook& now);

 private:
  struct State;
  explicit BlockWatch(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace migrate
