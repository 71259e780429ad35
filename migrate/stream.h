#pragma once
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "migrate/wire.h"

namespace migrate {

/// Where a tree is sent to.
class Sink {
 public:
  virtual ~Sink() = default;
  virtual void write(std::span<const std::byte> bytes) = 0;
};

/// Where a tree is received from.
class Source {
 public:
  virtual ~Source() = default;
  /// Fills all of `out` or throws.
  virtual void read_exact(std::span<std::byte> out) = 0;
};

/// Compresses what it is given as one zstd stream (with its checksum) into kData frames of at
/// most 256 KiB. Holds about 1 MiB at level 1, 4 MiB at level 3. Without `finish()` the other
/// node sees a stream that was cut off.
class ZstdSink : public Sink {
 public:
  explicit ZstdSink(Wire& wire, int level = 1);
  ~ZstdSink() override;
  void write(std::span<const std::byte> bytes) override;
  /// Flushes the end of the stream and sends kDataEnd. Once.
  void finish();
  [[nodiscard]] uint64_t bytes_in() const;  ///< before compression

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// The other end of a ZstdSink. Memory is bounded whatever the stream says: a window of more
/// than 8 MiB is refused. Takes nothing from the wire beyond its kDataEnd.
class ZstdSource : public Source {
 public:
  /// `timeout` is the longest wait for one frame: the first of a live round comes after a syncfs(2)
  /// and a scan at the other end.
  explicit ZstdSource(Wire& wire, std::chrono::milliseconds timeout = std::chrono::minutes(2));
  ~ZstdSource() override;
  void read_exact(std::span<std::byte> out) override;
  /// After the last byte: takes kDataEnd off the wire; throws when there is more than was read.
  void finish();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace migrate
