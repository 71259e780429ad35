// For tests of disks: composes one of the parts in a directory.
#include <format>
#include <iostream>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/fd.h"
#include "image/disk.h"
#include "image/guestfs.h"
#include "image/loader.h"
#include "image/sparse.h"

using namespace image;

namespace {

constexpr const char* kCache = "/var/cache/drover/disk-model";

/// DIR/root.img, vmlinuz, initrd, boot.cfg; DIR/loader is made when it is not there.
DiskParts parts_in(base::Context& context, const std::string& dir) {
  if (!base::exists(dir + "/loader")) make_loader(context, dir + "/loader");
  return {.root_image = dir + "/root.img",
          .vmlinuz = dir + "/vmlinuz",
          .initrd = dir + "/initrd",
          .boot_cfg = dir + "/boot.cfg",
          .loader_dir = dir + "/loader",
          .data_files = {{.path = "node.toml", .content = "name = \"node1\"\n", .mode = 0600},
                         {.path = "ssh/keys/host", .content = "key\n", .mode = 0400}}};
}

}  // namespace

/// disk_model direct|guestfs|inspect DIR ext4|xfs
int main(int argc, char** argv) {
  std::vector<std::string> words(argv + 1, argv + argc);
  base::ProcessRunner runner;
  auto progress = base::make_progress(base::Talk::kPlain);
  base::Clock clock;
  base::Context context = {.runner = runner, .progress = *progress, .clock = clock};
  if (words.size() != 3) return 2;
  std::string dir = words[1];
  DiskLayout layout = {.slot_bytes = 64 * kMiB,
                       .esp_bytes = 64 * kMiB,
                       .data_bytes = 320 * kMiB,
                       .data_file_system = words[2],
                       .seed = std::string(64, 'd'),
                       .clock = 1'700'000'000};
  try {
    if (words[0] == "direct") {
      compose_disk(context, layout, parts_in(context, dir), dir + "/disk.img");
    } else if (words[0] == "guestfs") {
      compose_disk_guestfs(context, layout, parts_in(context, dir), dir + "/disk.img", kCache);
    } else if (words[0] == "inspect") {
      // What veritysetup has said of root.img.
      DiskFacts facts = {.layout = layout,
                         .parts = parts_in(context, dir),
                         .root_hash = base::read_file(dir + "/root-hash"),
                         .hash_offset = std::stoull(base::read_file(dir + "/hash-offset"))};
      for (const Verdict& verdict : inspect_disk(context, dir + "/disk.img", facts, kCache))
        std::cout << verdict.name << ": " << (verdict.problem.empty() ? "good" : verdict.problem) << "\n";
    } else {
      return 2;
    }
  } catch (const base::Error& error) {
    std::cerr << error.render();
    return 1;
  }
}
