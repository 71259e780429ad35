#pragma once
#include <cstdint>
#include <string>

#include "base/error.h"

namespace migrate {

/// How many rounds of memory are sent while the box runs, when it is frozen, and for how long that will be.
/// Pure: it computes with what it is told.

enum class Mode {
  kStop,      ///< the box is frozen while its memory is sent
  kPrecopy,   ///< its memory is sent while it runs, in rounds; what is written last, in the freeze
  kPostcopy,  ///< the box runs at the destination before its memory is there
  kHybrid,    ///< rounds as in precopy; what is written last follows the box as in postcopy
  kAuto,      ///< kPrecopy where the source can, else kStop
};
/// Throws a usage error for a name that is none.
Mode parse_mode(const std::string& name);
const char* to_string(Mode mode);

inline constexpr unsigned kMostDowntimeMs =
    600'000;  ///< a box that may stand for longer can be moved by `stop`

/// What the operator asks for.
struct Goal {
  Mode mode = Mode::kAuto;
  double max_downtime_ms = 300;  ///< QEMU's default for its downtime-limit as well
  bool force = false;            ///< move it also when the target cannot be met
  bool by_auto = false;          ///< the mode was chosen here, and not by the operator

  /// With kAuto decided. `can_track`: the source can track what a running box writes.
  [[nodiscard]] Goal resolved(bool can_track) const;
};

/// How long CRIU takes to start on two nodes of which one dumps and the other restores (box::criu_start_ms;
/// 0: not known): dump and restore take so many times that.
double criu_start_of(double source_ms, double destination_ms);

/// What the time of dump and restore depends on.
struct BoxSize {
  uint64_t memory_bytes = 0;  ///< private, present, and to be sent
  uint64_t small_pages = 0;   ///< of 4 KiB
  uint64_t huge_pages = 0;    ///< of 2 MiB
  uint64_t shared_bytes =
      0;  ///< in CRIU's images whatever the mode: shared memory, content of tmpfs, deleted files
  unsigned processes = 1;
  uint64_t image_bytes = 0;  ///< on disk, of a private layer that is an image, if all of it is compared
  double criu_start_ms = criu_start_of(0, 0);
  bool requests = false;  ///< it may have asynchronous requests to a disk under way
};

/// Something that went over the wire.
struct Sent {
  uint64_t bytes = 0;       ///< of memory or of files
  uint64_t wire_bytes = 0;  ///< what became of them
  double ms = 0;

  /// Bytes per second; 0: nothing was sent.
  [[nodiscard]] double bandwidth() const {
    return bytes > 0 && ms > 0 ? static_cast<double>(bytes) / ms * 1e3 : 0;
  }
};

/// Before a move, in bytes per second, from a short measurement; 0: not known.
struct Measured {
  double bandwidth = 0;        ///< of the box's memory
  double noise_bandwidth = 0;  ///< of what cannot be packed
  double dirty_rate = 0;       ///< of memory that the box writes to
  double file_rate = 0;        ///< of what it writes to files
};

/// What a move will be.
struct Forecast {
  int rounds = 0;         ///< of memory, while the box runs
  uint64_t bytes = 0;     ///< of files and memory, before compression
  double total_ms = 0;    ///< until the source has nothing more to do
  double freeze_ms = 0;   ///< without what post-copy brings later
  double bandwidth = 0;   ///< bytes per second
  double dirty_rate = 0;  ///< bytes per second that the box writes to
  bool reachable = true;  ///< the freeze meets the target, or has none: `stop` by name
};

/// One move's memory. Ask `next()`; send a round, and tell `sent()`; ask again.
class Plan {
 public:
  /// `goal` has to be resolved.
  Plan(const Goal& goal, const BoxSize& size);

  /// Something else was sent, such as a part of the private layer: says how fast the wire is.
  void carried(const Sent& what);
  /// This of what cannot be packed was sent, or nothing: how fast what goes in the freeze is, at least.
  void noise(const Sent& what) { noise_bandwidth_ = what.bandwidth(); }
  /// What the last round of files has to send, and to read for that, as far as the one before tells.
  void files(uint64_t bytes, uint64_t read) {
    files_ = bytes;
    read_ = read;
  }
  /// A round of memory ended; `dirty_after` bytes were written to while it ran, and are to be sent again.
  void sent(const Sent& round, uint64_t dirty_after);
  /// Since then `ms` have gone by, with files: by now so much is to be sent again.
  void waited(double ms, uint64_t dirty_after);

  enum class Next {
    kRound,   ///< send what is dirty, while the box runs
    kFreeze,  ///< freeze the box
    kCannot,  ///< the target is out of reach: tell the operator `refusal()`; nothing is frozen
  };
  [[nodiscard]] Next next() const;

  /// Predicted for freezing now.
  [[nodiscard]] double freeze_ms() const;
  [[nodiscard]] bool meets_target() const { return freeze_ms() <= goal_.max_downtime_ms; }
  [[nodiscard]] int rounds() const { return rounds_; }
  [[nodiscard]] uint64_t dirty() const { return dirty_; }  ///< bytes that the destination lacks
  [[nodiscard]] double bandwidth() const;                  ///< bytes per second; 0 until measured
  [[nodiscard]] double dirty_rate() const;                 ///< bytes per second, in the last round
  /// As of now, `elapsed_ms` after the move began: what was sent counts. With the rounds that are to come as
  /// they will be where the box writes on at these rates.
  [[nodiscard]] Forecast forecast(double elapsed_ms, double dirty_rate, double file_rate = 0) const;
  /// Why this box is not frozen, and what would make it move.
  [[nodiscard]] base::Error refusal(const std::string& box, const std::string& node) const;

  /// Before anything was sent.
  static Forecast forecast(const Goal& goal, const BoxSize& size, const Measured& measured,
                           uint64_t private_layer_bytes);

 private:
  [[nodiscard]] bool memory_waits() const;
  [[nodiscard]] double link_ms(uint64_t bytes) const;
  [[nodiscard]] double shared_bandwidth() const;
  [[nodiscard]] double here_ms() const;
  [[nodiscard]] double least_ms() const;
  [[nodiscard]] double shrink() const;
  [[nodiscard]] bool stalled() const;
  [[nodiscard]] bool pays() const;
  void weigh(const Sent& what);

  Goal goal_;
  BoxSize size_;
  double weighed_bytes_ = 0, weighed_ms_ = 0;  ///< of what was sent; older things count less
  double noise_bandwidth_ = 0;
  int rounds_ = 0;
  uint64_t dirty_;             ///< what the next round, or the freeze, has to send
  uint64_t dirty_before_ = 0;  ///< what the last round had to send
  double last_ms_ = 0;         ///< of the last round
  uint64_t least_;             ///< the smallest dirty set that counted as progress
  int idle_rounds_ = 0;        ///< rounds since then
  double idle_ms_ = 0;         ///< and their time
  uint64_t sent_bytes_ = 0;
  uint64_t files_ = 0, read_ = 0;
};

}  // namespace migrate
