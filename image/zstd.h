#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

namespace image {

/// One zstd frame, in which a `prefix` that both ends have may be referred to as if it stood in front: what
/// `zstd --patch-from` does. The same input gives the same bytes with one version of libzstd.
class Packer {
 public:
  /// Of exactly `bytes` bytes. References reach back 2^window_log bytes (10 to 31), and into all of the
  /// prefix while no more than that is packed. The prefix is not copied.
  Packer(int level, int window_log, std::span<const std::byte> prefix, uint64_t bytes);
  ~Packer();
  void add(std::span<const std::byte> bytes);
  [[nodiscard]] std::string finish();  ///< the frame; once

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// Reads such a frame from somebody who may be hostile: takes 2^window_log bytes of memory and a little more,
/// and makes no more than it is asked for.
class Unpacker {
 public:
  /// Fills the buffer as far as it can; 0 at the end.
  using Source = std::function<size_t(std::span<std::byte>)>;
  Unpacker(Source source, int window_log, std::span<const std::byte> prefix);
  ~Unpacker();
  void read_exact(std::span<std::byte> out);  ///< throws when the frame ends before
  void finish();                              ///< throws unless frame and source end here

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace image
