#pragma once
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "migrate/wire.h"

namespace migrate {

/// Packs blocks that know nothing of each other.
class BlockPacker {
 public:
  BlockPacker();
  ~BlockPacker();
  /// Appends `bytes` to `out` as one zstd frame of its own.
  void pack(std::span<const std::byte> bytes, int level, std::vector<std::byte>& out);

 private:
  struct State;
  std::unique_ptr<State> state_;
};
/// Fills `out`, no more and no less, from one zstd frame of the other node's.
void decompress_block(std::span<const std::byte> packed, std::span<std::byte> out);

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

/// What carries a compressed stream, in pieces: a Wire (as frames), or a file.
class PieceSink {
 public:
  virtual ~PieceSink() = default;
  virtual void piece(std::span<const std::byte> bytes) = 0;  ///< 1 to kMaxPiece bytes
  virtual void end() = 0;                                    ///< the stream is complete
};
class PieceSource {
 public:
  virtual ~PieceSource() = default;
  /// The next piece, valid until the next call; empty: the stream is complete.
  virtual std::span<const std::byte> next() = 0;
  /// Who an Error is to name as the sender: "the other node".
  [[nodiscard]] virtual std::string who() const = 0;
};
inline constexpr size_t kMaxPiece = 256 << 10;

/// Compresses what it is given as one zstd stream (with checksums) into pieces of at
/// most 256 KiB: kData frames. Holds about 1 MiB at level 1, 4 MiB at level 3. Without `finish()` the other
/// node sees a stream that was cut off.
class ZstdSink : public Sink {
 public:
  /// At the wire's level: each time that changes, another zstd frame begins.
  explicit ZstdSink(Wire& wire);
  explicit ZstdSink(PieceSink& to, int level = 1);
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
  explicit ZstdSource(PieceSource& from);
  ~ZstdSource() override;
  void read_exact(std::span<std::byte> out) override;
  /// After the last byte: takes kDataEnd off the wire; throws when there is more than was read.
  void finish();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace migrate
