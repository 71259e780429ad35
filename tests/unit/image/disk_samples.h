#pragma once
#include <sys/stat.h>

#include <memory>
#include <string>

#include "base/fd.h"
#include "base/mount.h"
#include "image/disk.h"
#include "image/loader.h"
#include "image/sparse.h"
#include "tests/unit/image/image_samples.h"

namespace image {

/// The smallest disk of each kind.
inline DiskLayout small_layout(const std::string& data_file_system = "ext4") {
  return {.slot_bytes = 2 * kMiB,
          .esp_bytes = 34 * kMiB,
          .data_bytes = data_file_system == "xfs" ? 300 * kMiB : 64 * kMiB,
          .data_file_system = data_file_system,
          .seed = std::string(64, 'd'),
          .clock = 1'700'000'000};
}

/// Parts in a directory that goes with the test; in memory, as programs put each file system on disk with an
/// fsync.
class SampleParts {
 public:
  explicit SampleParts(base::Context& context) : directory_(base::TempDir::make("/dev/shm", "disk-test-")) {
    base::write_file(path("root.img"), noise(200'000, 1) + std::string(300'000, '\0') + noise(24'288, 2));
    base::write_file(path("vmlinuz"), noise(70'000, 3));
    base::write_file(path("initrd"), noise(50'001, 4));
    base::write_file(path("boot.cfg"), "echo \"slot $choice\"\n");
    make_loader(context, path("loader"));
  }
  [[nodiscard]] std::string path(const std::string& name) const { return directory_.path() + "/" + name; }
  [[nodiscard]] DiskParts parts() const {
    return {.root_image = path("root.img"),
            .vmlinuz = path("vmlinuz"),
            .initrd = path("initrd"),
            .boot_cfg = path("boot.cfg"),
            .loader_dir = path("loader"),
            .data_files = {{.path = "node.toml", .content = "name = \"node1\"\n", .mode = 0600},
                           {.path = "ssh/keys/host", .content = noise(5000, 5), .mode = 0400}}};
  }

 private:
  base::TempDir directory_;
};

}  // namespace image
