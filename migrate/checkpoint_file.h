#pragma once
#include <nlohmann/json.hpp>

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/hash.h"
#include "base/sign.h"
#include "migrate/stream.h"

namespace migrate {

/// A box in a file (docs/formats/checkpoint-file.md):
///
///     "DRVCKPT1"  header  (round data… end)…  images data… end  signature
///
/// Whoever can write images can run code as root on the node that restores them. So nothing of a file is
/// used before its signature has been checked, over every byte in front of it.

/// A part's first byte. Where the wire has the same thing, the number is the same.
enum class Part : uint8_t {
  kData = 1,       ///< a piece of a zstd stream
  kEnd = 2,        ///< the zstd stream before it is complete
  kHeader = 16,    ///< one JSON object
  kRound = 20,     ///< a round of the private layer follows as data
  kImages = 22,    ///< CRIU's images follow as data
  kSignature = 64  ///< minisign's text over all before this part; the file ends behind it
};

/// Writes a file in order. Removes nothing: that is for whoever named it.
class CheckpointWriter : public PieceSink {
 public:
  /// Makes `path` (there must be none), readable for root only. Errors speak of `name`.
  CheckpointWriter(const std::string& path, std::string name);
  void header(const nlohmann::json& json);
  /// A tree follows: through a ZstdSink on this writer.
  void begin(Part tree);
  void piece(std::span<const std::byte> bytes) override;
  void end() override;
  /// The last part. All of the file is on disk afterwards.
  void sign(const base::Keys& keys, const std::string& comment);
  [[nodiscard]] uint64_t bytes() const { return bytes_; }

 private:
  void part(Part type, std::span<const std::byte> payload);
  void write(std::span<const std::byte> bytes);
  std::string name_;
  base::Fd fd_;
  base::Blake2b hash_;
  uint64_t bytes_ = 0;
};

/// Reads a file twice: `verify` looks at all of it, and then it is read part by part. An Error names the file
/// and what is wrong with it: it is no checkpoint, cut off, damaged, changed, or of a foreign node.
class CheckpointReader : public PieceSource {
 public:
  explicit CheckpointReader(const std::string& path);
  CheckpointReader(base::Fd fd, std::string name);

  /// Throws unless the whole file is what a trusted key has signed. `progress` gets the bytes read so
  /// far; it may throw. Returns the header; the reader stands behind it.
  nlohmann::json verify(const base::Keys& keys, const std::function<void(uint64_t)>& progress = {});

  /// The next tree, to be read through a ZstdSource on this reader until its end; nullopt behind the
  /// images. There it throws unless what was read is what `verify` has seen.
  std::optional<Part> next_tree();
  std::span<const std::byte> next() override;
  [[nodiscard]] std::string who() const override { return name_; }
  [[nodiscard]] uint64_t size() const { return size_; }

 private:
  Part next_part();
  void rewind();
  void read(std::span<std::byte> out);
  [[nodiscard]] base::Error damaged() const;

  std::string name_;
  base::Fd fd_;
  uint64_t size_ = 0, at_ = 0;
  std::optional<base::Blake2b> hash_;
  base::Blake2b::Digest hashed_{};  ///< of all before the signature; once that was read
  base::Blake2b::Digest verified_{};
  Part last_ = Part::kSignature;  ///< what was read before; kSignature also at the beginning
  bool images_ = false;           ///< were read: only the signature may follow
  std::vector<std::byte> payload_;
};

}  // namespace migrate
