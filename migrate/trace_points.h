#pragma once
#include <sys/types.h>

#include <cstddef>
#include <functional>
#include <memory>
#include <set>
#include <vector>

#include "migrate/file_extents.h"

namespace migrate {

/// What a trace point says of a file.
struct WriteEvent {
  enum class What {
    kWritten,   ///< these blocks were, or were read directly
    kPrepared,  ///< these will be zeros, at some time from now on, by writes nearby that are told of
                ///< themselves alone
    kUnknown,   ///< something was written
    kMoved,     ///< blocks will be moved within the file, at some time from now on
  };
  What what = What::kUnknown;
  ino_t file = 0;
  BlockRange blocks = {};
};

/// The kernel's trace points of writes to files (Documentation/trace/events.rst), found by their names.
class TracePoints {
 public:
  /// Throws where this kernel has not all of them, with the fields that they need.
  TracePoints();
  ~TracePoints();
  TracePoints(const TracePoints&) = delete;
  TracePoints& operator=(const TracePoints&) = delete;

 private:
  friend class WriteEvents;
  struct Points;
  std::unique_ptr<Points> points_;
};

/// Writes to some files, as long as it exists: one buffer of events for each processor (perf_event_open(2),
/// "MMAP layout"), which go with the process. For one thread at a time.
class WriteEvents {
 public:
  /// `files` by inode number, at most kMostFiles; also those of other file systems that have the same.
  /// `buffer`: bytes for each processor, a power of two; 0: as many as are good for all of them. `points`
  /// must outlive it.
  WriteEvents(const TracePoints& points, const std::set<ino_t>& files, size_t buffer);
  ~WriteEvents();
  WriteEvents(const WriteEvents&) = delete;
  WriteEvents& operator=(const WriteEvents&) = delete;

  /// To wait at (poll(2)) until some of the room for events is used up.
  [[nodiscard]] std::vector<int> descriptors() const;
  /// Calls `see` for all events that it has not been called for. False: some may be lost, or a processor came
  /// or went.
  bool drain(const std::function<void(const WriteEvent&)>& see);

  static constexpr size_t kMostFiles = 128;

 private:
  class Buffer;
  struct Buffers;
  std::unique_ptr<Buffers> buffers_;
};

}  // namespace migrate
