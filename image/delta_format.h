#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "image/manifest.h"

/// The bytes of a delta: docs/formats/image-delta.md.
namespace image {

/// How one part of the new image comes about.
struct DeltaSection {
  /// Old bytes that zstd may refer to.
  struct Prefix {
    size_t source = 0;   ///< index of DeltaHeader::sources
    uint64_t bytes = 0;  ///< so many from its beginning on
    bool operator==(const Prefix&) const = default;
  };
  std::string part;
  uint64_t bytes = 0;   ///< of its zstd frame in the delta
  int window_log = 10;  ///< of that frame
  std::optional<Prefix> prefix = std::nullopt;
  bool operator==(const DeltaSection&) const = default;
};

struct DeltaHeader {
  std::string from;                    ///< reference of the old image
  std::vector<Part> sources;           ///< parts of the old image that are read
  std::vector<DeltaSection> sections;  ///< in the order in which they are applied and lie in the file
  uint64_t memory = 0;                 ///< bytes that applying it takes: memory_for()
  bool operator==(const DeltaHeader&) const = default;

  /// Throws an Error that names the key. Nothing is trusted; `made` is the new image, whose signature has
  /// been checked.
  static DeltaHeader parse(std::string_view json, const Manifest& made);
  [[nodiscard]] std::string render() const;
  [[nodiscard]] const DeltaSection* find(std::string_view part) const;  ///< nullptr: the part is the old one
};

/// What applying takes for the largest section: its prefix, zstd's window, the leaves of the hash area,
/// buffers.
uint64_t memory_for(const std::vector<DeltaSection>& sections, const Manifest& made);

/// The first kDeltaHead bytes: how long what follows is.
struct DeltaHead {
  uint32_t header = 0, manifest = 0, signature = 0;
};
constexpr size_t kDeltaHead = 20;
std::string render(const DeltaHead& head);
DeltaHead parse_delta_head(std::string_view bytes);

/// A step of a section. The frame holds them one behind the other, each kNew's bytes behind it.
struct DeltaOp {
  enum class Kind : uint8_t {
    kNew = 1,     ///< `length` bytes follow
    kCopy = 2,    ///< `length` bytes of a source from `offset` on
    kZeros = 3,   ///< `length` zero bytes
    kVerity = 4,  ///< the hash area of what root.img holds so far, of `length` bytes
  };
  Kind kind = Kind::kNew;
  /// Below sources.size(): an old part. From there on the part of a section before this one, as it was made.
  uint8_t source = 0;
  uint64_t offset = 0;
  uint64_t length = 0;
  bool operator==(const DeltaOp&) const = default;
};
constexpr size_t kDeltaOp = 18;
/// No step but a part's last one is shorter: so a small delta cannot ask for endless work.
constexpr uint64_t kLeastStep = 512;
std::string render(const DeltaOp& op);
/// Checks the step for itself; what it refers to is checked when it is taken.
DeltaOp parse_delta_op(std::string_view bytes);

}  // namespace image
