#pragma once
#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <set>
#include <string>
#include <unordered_map>
#include <unordered_set>

namespace migrate {

/// What somebody may have changed between two looks at a tree. More may be named than has changed, and what
/// lies elsewhere on the same file system; never less.
struct Changes {
  bool all = false;                 ///< not known (too many, or the kernel lost count): look at everything
  std::unordered_set<ino_t> files;  ///< content, metadata or number of names; directories, too
  std::unordered_map<ino_t, std::set<std::string>>
      names;  ///< by directory: came, went, or is another file now
};

/// Lets the kernel tell what changes on the file system that holds a tree (fanotify(7), Linux 5.17), so that
/// the last round need not look at what did not. A thread takes the events off the kernel's queue. Not seen
/// are
///
/// - stores through shared mappings, asynchronous I/O in flight: the file's FAN_CLOSE_WRITE tells of them, so
///   the caller adds the files that are still open for writing (open_files.h);
/// - access times: every read of every box on this file system would be an event.
class ChangeWatch {
 public:
  /// Watches from now on. nullptr where this kernel or file system cannot tell (the reason goes to the log).
  /// `root` is a directory opened for reading, and is kept open.
  static std::unique_ptr<ChangeWatch> start(int root);
  ~ChangeWatch();
  ChangeWatch(const ChangeWatch&) = delete;
  ChangeWatch& operator=(const ChangeWatch&) = delete;

  /// All changes before this call that no earlier call told of. For one caller.
  Changes take();
  /// A number for the last `take()`, never 0, and never the same for two watches: who noted it can tell
  /// whether anything was taken since.
  [[nodiscard]] uint64_t taken() const { return taken_; }

 private:
  struct Queue;
  explicit ChangeWatch(std::unique_ptr<Queue> queue);
  std::unique_ptr<Queue> queue_;
  uint64_t taken_;
};

}  // namespace migrate
