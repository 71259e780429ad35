#pragma once
#include <optional>
#include <string>
#include <vector>

#include "image/manifest.h"

namespace image {

/// image.lock, beside a definition: which packages its last `--update-lock` found, by the name of the image.
/// docs/formats/image-lock.md. With it the same definition stays the same image, whatever the mirror has got.
std::string lock_path(const std::string& definition_file);
/// nullopt where there is no such file, or it has no such image.
std::optional<std::vector<Package>> read_lock(const std::string& path, const std::string& image);
/// Other images' packages stay as they are.
void write_lock(const std::string& path, const std::string& image, const std::vector<Package>& packages);

}  // namespace image
