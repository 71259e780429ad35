#pragma once
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/context.h"
#include "base/fd.h"
#include "base/sign.h"
#include "image/delta_format.h"
#include "image/manifest.h"

namespace image {

struct DeltaOptions {
  /// What the node has for applying it, in bytes; without one, what the old image's manifest says.
  std::optional<uint64_t> node_memory = std::nullopt;
};

struct DeltaReport {
  struct Of {
    std::string part;
    uint64_t bytes = 0;        ///< of the new part
    uint64_t delta_bytes = 0;  ///< of these, what the delta carries
    std::string how;           ///< "same", "blocks", "patch"
  };
  std::string from, to;      ///< references of the images
  uint64_t bytes = 0;        ///< of the delta
  uint64_t image_bytes = 0;  ///< of what the new image's slot takes: root, kernel, initrd
  uint64_t memory = 0;       ///< DeltaHeader::memory
  std::vector<Of> parts;
};

/// Writes into `file` how the image `new_dir` comes about from the image `old_dir`, for each part that
/// differs by the smaller of two ways: its changed blocks, or these packed with reference to the old part
/// (the way of `zstd --patch-from`), the latter where the node's memory allows it. Both images are checked
/// against their manifests while they are read. `file` is there when it is whole.
DeltaReport make_delta(base::Context& context, const std::string& old_dir, const std::string& new_dir,
                       const base::Keys& keys, const std::string& file, const DeltaOptions& options = {});

/// Where parts of an image lie, by name: files, or block devices that begin with a part's bytes.
using PartPaths = std::map<std::string, std::string, std::less<>>;

/// A delta from somebody who may be hostile.
class Delta {
 public:
  /// Throws unless its frame is whole, the manifest in it is signed by one of the keys, and all that its
  /// header says holds together.
  Delta(std::string file, const base::Keys& keys);

  [[nodiscard]] const DeltaHeader& header() const { return header_; }
  [[nodiscard]] const SignedManifest& made() const { return made_; }
  /// Throws when applying takes more than `bytes` of memory.
  void require_memory(uint64_t bytes) const;

  /// Writes the new image's `part` into `fd`, a new file or a block device, from its beginning on, and puts
  /// it on disk. Throws unless what was written is what the manifest names; what `fd` holds is then of no
  /// use. `old` has the parts of the old image, checked before they are used; `made` the new ones that were
  /// written before (disk.img is made of them).
  void write_part(base::Context& context, std::string_view part, const PartPaths& old, const PartPaths& made,
                  int fd) const;
  /// The same into a file, which gets its name when it is whole (image/half_file.h).
  void write_file(base::Context& context, std::string_view part, const PartPaths& old, const PartPaths& made,
                  const std::string& path) const;

 private:
  std::string file_;
  base::Fd fd_;
  DeltaHeader header_;
  SignedManifest made_;
  std::vector<uint64_t> begins_;  ///< of each section's frame in the file
};

/// Makes the image directory `out_dir`, which is not there yet, from the image `old_dir` and a delta. It gets
/// its name when all parts are whole and on disk. Returns the new image's manifest.
Manifest apply_delta(base::Context& context, const std::string& file, const std::string& old_dir,
                     const std::string& out_dir, const base::Keys& keys,
                     std::optional<uint64_t> node_memory = std::nullopt);

}  // namespace image
