#include "image/new_image.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

#include <filesystem>

#include "base/error.h"
#include "base/fd.h"
#include "base/hash.h"
#include "base/pause.h"
#include "image/sbom.h"

namespace image {
namespace {

namespace fs = std::filesystem;

std::vector<Part> parts_in(const std::string& directory) {
  std::vector<Part> parts;
  for (const PartKind& kind : part_kinds()) {
    std::string file = directory + "/" + std::string(kind.name);
    struct stat status;
    if (::stat(file.c_str(), &status) != 0) {
      if (errno == ENOENT && !kind.needed) continue;
      throw base::sys_error("cannot look at {}", kind.name);
    }
    parts.push_back({.name = std::string(kind.name),
                     .bytes = static_cast<uint64_t>(status.st_size),
                     .sha256 = base::sha256_file_hex(file)});
    base::fsync_path(file);
  }
  return parts;
}

}  // namespace

NewImage::NewImage(std::string out) : out_(std::move(out)) {
  fs::path path = fs::absolute(out_);
  base::make_directories(path.parent_path());
  std::string prefix = "." + path.filename().string() + ".new-";
  for (const auto& entry : fs::directory_iterator(path.parent_path()))
    if (entry.path().filename().string().starts_with(prefix)) base::remove_tree(entry.path());
  directory_ = base::TempDir::make(path.parent_path(), prefix);
  fs::permissions(directory(), fs::perms(0755));
}

Manifest NewImage::commit(base::Context& context, Manifest manifest, const base::Keys& keys) {
  base::write_file(directory() + "/sbom.spdx.json", render_sbom(manifest));
  {
    base::Phase phase(context.progress, "hash");
    manifest.parts = parts_in(directory());
  }
  write_manifest(directory(), manifest, keys);
  base::pause_point("build.signed");
  base::check_interrupt();
  exchange();
  base::pause_point("build.named");
  return manifest;
}

/// The commit point: from here on the new image has the name.
void NewImage::exchange() {
  if (base::exists(out_)) {
    if (::renameat2(AT_FDCWD, directory().c_str(), AT_FDCWD, out_.c_str(), RENAME_EXCHANGE) != 0)
      throw base::sys_error("cannot put the image in the place of {}", out_);
    // The old one has the other name now, and goes with it.
  } else if (::rename(directory().c_str(), out_.c_str()) != 0) {
    throw base::sys_error("cannot give the image its name {}", out_);
  } else {
    directory_->release();
  }
  base::fsync_path(fs::absolute(out_).parent_path());
}

}  // namespace image
