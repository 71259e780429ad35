// Makes an image directory of given files, signed, for tests that need one and not the build of one:
//
//     image_sample KEYS DIR VERSION [--disk] PART=FILE...
//
// root.img's FILE is the data, to which its hash area is added. Parts that no image is without have some
// bytes when none are given. --disk: with a real loader, and a disk.img of it and of the parts.

#include <cstdio>
#include <filesystem>

#include "base/error.h"
#include "image/disk.h"
#include "image/loader.h"
#include "tests/unit/image/image_samples.h"

namespace {

/// Composes DIR/disk.img of the parts that are there, and signs what is then the image.
void add_disk(const std::string& directory, const base::Keys& keys, image::Manifest manifest) {
  image::TestContext here;
  std::string disk = directory + "/disk.img", loader = directory + "/loader";
  base::remove_tree(loader);
  image::make_loader(here.context, loader);
  image::compose_disk(here.context, manifest.layout(),
                      {.root_image = directory + "/root.img",
                       .vmlinuz = directory + "/vmlinuz",
                       .initrd = directory + "/initrd",
                       .boot_cfg = directory + "/boot.cfg",
                       .loader_dir = loader},
                      disk);
  manifest.parts.clear();
  for (const image::PartKind& kind : image::part_kinds()) {
    std::string file = std::format("{}/{}", directory, kind.name);
    if (base::exists(file))
      manifest.parts.push_back({.name = std::string(kind.name),
                                .bytes = std::filesystem::file_size(file),
                                .sha256 = base::sha256_file_hex(file)});
  }
  image::write_manifest(directory, manifest, keys);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 4) {
    std::fputs("usage: image_sample KEYS DIR VERSION [--disk] PART=FILE...\n", stderr);
    return 2;
  }
  try {
    std::map<std::string, std::string> parts = image::sample_parts();
    bool disk = false;
    for (int i = 4; i < argc; ++i) {
      std::string word = argv[i];
      if (word == "--disk") {
        disk = true;
        continue;
      }
      size_t equals = word.find('=');
      parts[word.substr(0, equals)] = base::read_file(word.substr(equals + 1), size_t{1} << 30);
    }
    base::Keys keys(argv[1]);
    image::Manifest manifest = image::write_image(argv[2], keys, parts, argv[3]);
    if (disk) add_disk(argv[2], keys, manifest);
  } catch (const base::Error& error) {
    std::fputs(error.render().c_str(), stderr);
    return static_cast<int>(error.exit());
  }
}
