// Deltas from somebody hostile who has got hold of a manifest that was really signed. An input that begins
// with 'f' is a whole file; with 'h' a header, a line, and what follows upon manifest and signature; with 's'
// the steps of initrd, packed here with the old initrd as their prefix. What is made of a part is what the
// manifest names.

#include <fcntl.h>

#include <cstdint>
#include <cstdlib>
#include <string>

#include "base/mount.h"
#include "image/delta.h"
#include "image/zstd.h"
#include "tests/unit/image/image_samples.h"

namespace {

using Parts = std::map<std::string, std::string>;

/// Two images: the new one has another block in its root, and another initrd.
struct Sample {
  Sample() {
    Parts parts = {{"root.img", image::noise(3 * image::kVerityBlock, 1)},
                   {"vmlinuz", "kernel"},
                   {"initrd", image::noise(2000, 2)},
                   {"boot.cfg", "linux"},
                   {"sbom.spdx.json", "{}"}};
    image::write_image(old_dir, keys, parts);
    for (const auto& [name, bytes] : parts) old[name] = old_dir + "/" + name;
    parts["root.img"].replace(image::kVerityBlock, image::kVerityBlock, image::noise(image::kVerityBlock, 3));
    parts["initrd"].insert(700, image::noise(600, 4));
    image::write_image(new_dir, keys, parts, "2026112802");
    made = image::read_signed(new_dir, keys);
  }

  [[nodiscard]] std::string whole(const std::string& header, const std::string& frames) const {
    image::DeltaHead head = {.header = static_cast<uint32_t>(header.size()),
                             .manifest = static_cast<uint32_t>(made.text.size()),
                             .signature = static_cast<uint32_t>(made.signature.size())};
    return image::render(head) + header + made.text + made.signature + frames;
  }

  /// A delta whose initrd comes of these steps. Its root comes of none.
  [[nodiscard]] std::string of_steps(std::string_view steps) const {
    std::string before = base::read_file(old.at("initrd"));
    auto pack = [](std::string_view bytes, std::string_view prefix) {
      image::Packer packer(1, 20, std::as_bytes(std::span(prefix)), bytes.size());
      packer.add(std::as_bytes(std::span(bytes)));
      return packer.finish();
    };
    std::string initrd = pack(steps, before), root = pack("", "");
    image::DeltaHeader header = {.from = "node-vm@2026112801", .sources = {}, .sections = {}};
    for (const auto& [name, path] : old) {
      std::string bytes = base::read_file(path);
      header.sources.push_back({.name = name, .bytes = bytes.size(), .sha256 = base::sha256_hex(bytes)});
    }
    header.sections.push_back({.part = "initrd",
                               .bytes = initrd.size(),
                               .window_log = 20,
                               .prefix = {{.source = 1, .bytes = before.size()}}});
    header.sections.push_back({.part = "root.img", .bytes = root.size(), .window_log = 20});
    header.memory = image::memory_for(header.sections, made.manifest);
    return whole(header.render(), initrd + root);
  }

  base::TempDir directory = base::TempDir::make("/tmp", "fuzz-delta-");
  base::Keys keys{directory.path() + "/keys"};
  std::string old_dir = directory.path() + "/old", new_dir = directory.path() + "/new";
  image::PartPaths old;
  image::SignedManifest made;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static Sample sample;
  image::TestContext here;
  std::string input(reinterpret_cast<const char*>(data), size), file = sample.directory.path() + "/delta";
  char kind = input.empty() ? 'f' : input[0];
  if (!input.empty()) input.erase(0, 1);
  if (kind == 'h') {
    size_t line = std::min(input.find('\n'), input.size());
    input = sample.whole(input.substr(0, line), input.substr(std::min(line + 1, input.size())));
  } else if (kind == 's') {
    input = sample.of_steps(input);
  }
  base::write_file(file, input);
  try {
    image::Delta delta(file, sample.keys);
    for (const image::DeltaSection& section : delta.header().sections) {
      std::string path = sample.directory.path() + "/part";
      base::Fd fd = base::open(path, O_RDWR | O_CREAT | O_TRUNC);
      delta.write_part(here.context, section.part, sample.old, {}, fd.get());
      if (base::sha256_file_hex(path) != sample.made.manifest.at(section.part).sha256) std::abort();
    }
  } catch (const base::Error&) {
    // Refused: what it was for.
  }
  return 0;
}
