#pragma once
#include <string>
#include <string_view>

namespace bootstrap {

/// What this node's image is called.
struct Release {
  std::string name, version;
};

/// `etc`/drover/image.json, which the image's build writes ("name", "version"); without it, os-release(5)'s
/// PRETTY_NAME and IMAGE_VERSION.
Release read_release(const std::string& etc);

/// The value of KEY in an os-release(5), without its quotes; empty when it is not there.
std::string os_release_value(std::string_view text, std::string_view key);

}  // namespace bootstrap
