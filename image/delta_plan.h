#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

#include "image/delta_format.h"

namespace image {

using Bytes = std::span<const std::byte>;

/// Where blocks are that a new part may be copied from.
class BlockIndex {
 public:
  /// Of blocks of so many bytes, at multiples of it.
  explicit BlockIndex(size_t block) : block_(block) {}
  /// `source` as in DeltaOp. The bytes have to stay where they are.
  void add(uint8_t source, Bytes bytes);

  struct Place {
    uint8_t source;
    uint64_t offset;
  };
  /// A place that holds `block`; nullptr when there is none.
  [[nodiscard]] const Place* find(Bytes block) const;
  /// Whether `block` also stands at `place`.
  [[nodiscard]] bool holds(const Place& place, Bytes block) const;
  [[nodiscard]] size_t block() const { return block_; }

 private:
  size_t block_;
  std::unordered_map<uint8_t, Bytes> sources_;
  std::unordered_map<size_t, Place> places_;  ///< by hash; of equal blocks the first
};

/// A step, and for kNew where in the part its bytes stand.
struct PlannedStep {
  DeltaOp op;
  uint64_t at = 0;
};

/// The steps that make `part`: what is in the index is copied, in runs as long as they go.
std::vector<PlannedStep> plan(Bytes part, const BlockIndex& index);

}  // namespace image
