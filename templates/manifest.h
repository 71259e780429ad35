#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "rootfs/parts.h"

namespace templates {

/// One read-only erofs image, named by the SHA-256 of its bytes.
struct Layer {
  std::string digest;  ///< "sha256:" and 64 lower-case hex digits
  uint64_t bytes = 0;  ///< of the image file
  bool operator==(const Layer&) const = default;
};

using Package = rootfs::Package;

/// How a box of a template starts and stops.
struct Start {
  std::vector<std::string> init;  ///< argv of the box's process 1; [0] is an absolute path in the box
  std::map<std::string, std::string> env;
  std::string working_dir = "/";
  std::string stop_signal = "SIGTERM";  ///< asks process 1 to end the box
  unsigned stop_seconds = 10;           ///< how long it may take before the box is killed
  bool control_groups = false;          ///< the box divides its control group itself, as systemd does
  bool operator==(const Start&) const = default;
};

/// One version of a template: what docs/formats/template-manifest.md describes.
struct Manifest {
  std::string name;
  std::string version;  ///< YYYYMMDDnn: day of the build (UTC) and a count from 01
  std::string base;     ///< name@version of the OS template below; empty for an OS template
  std::string description;
  std::string distribution;       ///< Debian suite, such as "trixie"
  std::string architecture;       ///< as dpkg names it, such as "amd64"
  std::string fingerprint;        ///< "sha256:…" over all that went into the build
  int64_t clock = 0;              ///< SOURCE_DATE_EPOCH of the build: when its youngest package was made
  std::vector<Layer> layers;      ///< bottom first; the base's are included
  std::vector<Package> packages;  ///< of the whole template, the base's included; sorted by name
  uint64_t tree_bytes = 0;        ///< what the files of the top layer take unpacked
  Start start;

  [[nodiscard]] std::string reference() const { return name + "@" + version; }
  /// Everything but the version is the same.
  [[nodiscard]] bool same_content(const Manifest& other) const;
  bool operator==(const Manifest&) const = default;

  /// Throws an Error that names the key. Nothing in the text is trusted: names, digests and sizes
  /// are checked against the format before they are used for anything.
  static Manifest parse(std::string_view json);
  [[nodiscard]] std::string render() const;  ///< the file's bytes: the same for the same manifest
};

/// A template's name: [a-z0-9][a-z0-9.+-]{0,62}. It becomes a file name.
bool valid_name(std::string_view name);
bool valid_version(std::string_view version);
bool valid_digest(std::string_view digest);
/// "name" or "name@version".
bool valid_reference(std::string_view reference);
/// What was expected of a Start and is not so; empty when it is fine.
std::string problem_with(const Start& start);

}  // namespace templates
