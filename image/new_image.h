#pragma once
#include <optional>
#include <string>

#include "base/context.h"
#include "base/mount.h"
#include "base/sign.h"
#include "image/manifest.h"

namespace image {

/// The absolute path of an image directory to be, or to be replaced. Throws where something is there that is
/// neither an image nor an empty directory, as it would be lost.
std::string place_of_image(const std::string& out);

/// An image directory while it is made: beside the one whose name it gets, on the same file system. It goes
/// with this object unless it was committed; what a killed build has left goes when the next one begins.
class [[nodiscard]] NewImage {
 public:
  explicit NewImage(std::string out);  ///< as place_of_image() has it

  /// Where the parts are made.
  [[nodiscard]] const std::string& directory() const { return directory_->path(); }

  /// Writes the SBOM, hashes every part that is there into the manifest, signs it, and gives the directory
  /// its name, in one step: the image that had it before goes. Returns the whole manifest.
  Manifest commit(base::Context& context, Manifest manifest, const base::Keys& keys);

 private:
  void exchange();

  std::string out_;
  std::optional<base::TempDir> directory_;
};

}  // namespace image
