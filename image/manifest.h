#pragma once
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/sign.h"
#include "rootfs/parts.h"

namespace image {

struct DiskLayout;

constexpr std::string_view kManifestFile = "manifest.json";
constexpr std::string_view kSignatureFile = "manifest.json.minisig";

/// The parts that an image directory can have, by their file names in it: an image has no others. One place
/// to add one.
struct PartKind {
  std::string_view name;
  bool needed;  ///< no image is without it
};
std::span<const PartKind> part_kinds();

struct Part {
  std::string name;  ///< of a PartKind: the file's path in the image directory
  uint64_t bytes = 0;
  std::string sha256;  ///< 64 lower-case hex digits
  bool operator==(const Part&) const = default;
};

/// root.img: an erofs image, and behind it dm-verity's hash area (image/verity.h).
struct Root {
  uint64_t data_bytes = 0;  ///< of the erofs image, in whole blocks of 4096
  std::string root_hash;    ///< 64 hex digits
  std::string salt;         ///< hex digits of 1 to 256 bytes
  std::string uuid;         ///< of the hash area: 8-4-4-4-12 hex digits

  [[nodiscard]] uint64_t hash_offset() const { return data_bytes; }
  bool operator==(const Root&) const = default;
};

/// How a disk of the image is laid out, besides its slots and what derives from the definition hash.
struct DiskSizes {
  uint64_t esp_bytes = 0;   ///< in whole MiB, as `data_bytes`
  uint64_t data_bytes = 0;  ///< on a new disk: it grows on a node's first boot
  std::string data_file_system;
  bool operator==(const DiskSizes&) const = default;
};

using Package = rootfs::Package;

constexpr uint64_t kDefaultNodeMemory = uint64_t{512} << 20;

/// What an image directory says of itself: docs/formats/image-manifest.md.
struct Manifest {
  std::string name;
  std::string version;          ///< YYYYMMDDnn: day of the build (UTC) and a count from 01
  std::string suite;            ///< of Debian, such as "trixie"
  std::string architecture;     ///< as dpkg names it, such as "amd64"
  int64_t clock = 0;            ///< SOURCE_DATE_EPOCH of the build
  std::string definition_hash;  ///< 64 hex digits
  std::string kernel_version;   ///< as in /lib/modules/VERSION
  std::string drover_version;   ///< that built it
  std::vector<Part> parts;      ///< sorted by name
  Root root;
  uint64_t slot_bytes = 0;  ///< of the partition that root.img is written to
  DiskSizes disk;
  std::vector<Package> packages;              ///< sorted by name and architecture
  std::map<std::string, std::string> inputs;  ///< of the build: what for, and the 64 hex digits of its hash
  uint64_t node_memory = kDefaultNodeMemory;  ///< what a node that runs this image has for applying a delta

  [[nodiscard]] std::string reference() const { return name + "@" + version; }
  [[nodiscard]] DiskLayout layout() const;  ///< of the disk, whether disk.img is a part or not
  [[nodiscard]] const Part* find(std::string_view part) const;  ///< nullptr: it has none of that name
  [[nodiscard]] const Part& at(std::string_view part) const;    ///< throws instead
  bool operator==(const Manifest&) const = default;

  /// Throws an Error that names the key. Nothing in the text is trusted: names, digests and sizes are checked
  /// against the format before they are used for anything.
  static Manifest parse(std::string_view json);
  /// The file's bytes: the same for the same manifest, in whatever order its parts and packages stand.
  [[nodiscard]] std::string render() const;
};

/// A manifest as it is on disk, its signature checked.
struct SignedManifest {
  std::string text, signature;
  Manifest manifest;
};

/// The signature comes first: nothing is parsed that no trusted key has signed. `what` names it in messages.
SignedManifest check_manifest(std::string text, std::string signature, const base::Keys& keys,
                              const std::string& what);
SignedManifest read_signed(const std::string& directory, const base::Keys& keys);
Manifest read_image(const std::string& directory, const base::Keys& keys);

/// Writes manifest.json and its signature into `directory`, each atomically: the manifest last, so that what
/// was interrupted does not verify.
void write_manifest(const std::string& directory, const Manifest& manifest, const base::Keys& keys);

}  // namespace image
