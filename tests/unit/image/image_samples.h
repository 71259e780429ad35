#pragma once
#include <functional>
#include <map>
#include <random>
#include <string>

#include "base/context.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/hash.h"
#include "image/manifest.h"
#include "image/verity.h"

namespace image {

/// What `body` throws, as a person reads it; empty when it throws nothing.
inline std::string thrown(const std::function<void()>& body) {
  try {
    body();
  } catch (const base::Error& error) {
    return error.render();
  }
  return "";
}

struct TestContext {
  base::ProcessRunner runner;
  std::unique_ptr<base::Progress> progress = base::make_progress(base::Talk::kSilent);
  base::Clock clock;
  base::Context context{.runner = runner, .progress = *progress, .clock = clock};
};

/// Bytes that do not compress; the same for the same seed.
inline std::string noise(size_t bytes, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::string text(bytes, '\0');
  for (char& c : text) c = static_cast<char>(random());
  return text;
}

/// A manifest with all keys; its parts are of 1 byte, but for a root of one block.
inline Manifest sample_manifest() {
  Manifest manifest = {
      .name = "node-vm",
      .version = "2026112801",
      .suite = "trixie",
      .architecture = "amd64",
      .clock = 1'790'000'000,
      .definition_hash = std::string(64, 'd'),
      .kernel_version = "6.12.57+deb13-cloud-amd64",
      .drover_version = "0.1.0",
      .parts = {},
      .root = {.data_bytes = kVerityBlock,
               .root_hash = std::string(64, 'e'),
               .salt = std::string(64, '5'),
               .uuid = "01234567-89ab-4cde-8f01-23456789abcd"},
      .slot_bytes = 64 << 20,
      .disk = {.esp_bytes = 64 << 20, .data_bytes = 64 << 20, .data_file_system = "ext4"},
      .packages = {{.name = "libc6", .version = "2.41-12", .architecture = "amd64", .source = "glibc"},
                   {.name = "libstdc++6",
                    .version = "1:14.2.0-19+b1~x",
                    .architecture = "amd64",
                    .source = "gcc-14"}},
      .inputs = {{"files/etc/motd", std::string(64, '1')}},
      .node_memory = kDefaultNodeMemory};
  for (const PartKind& kind : part_kinds()) {
    uint64_t bytes = kind.name == "root.img" ? kVerityBlock + verity_bytes(kVerityBlock) : 1;
    manifest.parts.push_back(
        {.name = std::string(kind.name), .bytes = bytes, .sha256 = std::string(64, 'a')});
  }
  return manifest;
}

/// An image directory of these parts, signed: root.img is the data, to which its hash area is added.
inline Manifest write_image(const std::string& directory, const base::Keys& keys,
                            const std::map<std::string, std::string>& parts,
                            const std::string& version = "2026112801") {
  Manifest manifest = sample_manifest();
  manifest.version = version;
  manifest.definition_hash = base::sha256_hex(version);
  manifest.root.salt = manifest.definition_hash;
  manifest.parts.clear();
  base::make_directories(directory + "/loader");
  for (auto [name, bytes] : parts) {
    if (name == "root.img") {
      VerityTree tree(manifest.root.salt, manifest.root.uuid);
      tree.add(std::as_bytes(std::span(bytes)));
      manifest.root.data_bytes = bytes.size();
      manifest.root.root_hash = tree.area().root_hash;
      bytes += tree.area().bytes;
    }
    base::write_file(directory + "/" + name, bytes);
    manifest.parts.push_back({.name = name, .bytes = bytes.size(), .sha256 = base::sha256_hex(bytes)});
  }
  write_manifest(directory, manifest, keys);
  return manifest;
}

/// Parts of a small image.
inline std::map<std::string, std::string> sample_parts() {
  return {{"root.img", noise(300 * kVerityBlock, 1)},
          {"vmlinuz", noise(70'000, 2)},
          {"initrd", noise(50'001, 3)},
          {"boot.cfg", "linux\n"},
          {"sbom.spdx.json", "{}\n"},
          {"loader/grub.cfg", "timeout=0\n"}};
}

}  // namespace image
