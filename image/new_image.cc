#include "image/new_image.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

#include <algorithm>
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

/// Something that an image directory has in it.
bool is_ours(const std::string& name) {
  auto is_part = [&](const PartKind& kind) { return kind.name == name || kind.name.starts_with(name + "/"); };
  return name == kManifestFile || name == kSignatureFile || std::ranges::any_of(part_kinds(), is_part);
}

}  // namespace

std::string place_of_image(const std::string& out) {
  // Links are followed, or the image would take a link's place.
  fs::path path = fs::weakly_canonical(fs::absolute(out));
  if (!path.has_filename()) path = path.parent_path();
  if (!fs::exists(path)) return path;
  auto in_the_way = [&](const std::string& what) {
    return base::error("{} {}: an image would take its place", path.string(), what)
        .hint("name another directory, one that is not there yet");
  };
  if (!fs::is_directory(path)) throw in_the_way("is no directory");
  for (const auto& entry : fs::directory_iterator(path))
    if (std::string name = entry.path().filename(); !is_ours(name))
      throw in_the_way("has " + name + " in it, which is no part of an image");
  return path;
}

NewImage::NewImage(std::string out) : out_(std::move(out)) {
  fs::path path = out_;
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
  base::fsync_path(fs::path(out_).parent_path());
}

}  // namespace image
