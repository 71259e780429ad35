#pragma once
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/context.h"
#include "base/fd.h"
#include "base/sign.h"
#include "templates/manifest.h"

namespace templates {

/// The templates and layers of one machine (docs/formats/layer-store.md):
///
///     STATE/layers/sha256/HEX.erofs            a layer
///     STATE/templates/NAME/VERSION.json        a version's manifest; the version exists when this file does
///     STATE/templates/NAME/VERSION.json.minisig
///     STATE/keys/*.pub                         whose signatures count here
///
/// Every file appears whole under its name or not at all. References are "name" (the newest
/// version) or "name@version". A manifest is handed out only when a trusted key signed it.
class Store {
 public:
  explicit Store(std::string state_dir);

  /// nullopt when there is none; throws when it is there and cannot be trusted.
  [[nodiscard]] std::optional<Manifest> find(std::string_view reference) const;
  /// The same, but absence is an Error whose hint lists what is there.
  [[nodiscard]] Manifest resolve(std::string_view reference) const;

  struct Version {
    std::string name, version;
    [[nodiscard]] std::string reference() const { return name + "@" + version; }
  };
  /// All versions by name, oldest first, without reading their manifests.
  [[nodiscard]] std::vector<Version> versions() const;

  /// Where the layer's image lies, or would lie.
  [[nodiscard]] std::string layer_path(std::string_view digest) const;
  /// It is there and has its size. Its bytes are looked at by verify_layer only.
  [[nodiscard]] bool has_layer(const Layer& layer) const;
  /// Reads all of it; throws "layer sha256:… is damaged: …" when its bytes do not match its name.
  /// `at` is told the bytes read so far.
  void verify_layer(const Layer& layer, const std::function<void(uint64_t)>& at = {}) const;

  /// While one of these lives, gc takes nothing away. Whoever is about to write down a
  /// reference (a new box) holds one from `resolve` until the reference is on disk.
  class [[nodiscard]] Hold {
   public:
    explicit Hold(base::Fd lock) : lock_(std::move(lock)) {}

   private:
    base::Fd lock_;
  };
  [[nodiscard]] Hold hold() const;

  [[nodiscard]] const std::string& state_dir() const { return state_dir_; }

  // --- for templates/ itself

  /// Takes a finished file (same file system, on disk) into the store under its digest.
  void adopt_layer(const std::string& file, const Layer& layer, const Hold&);
  /// The commit point: from here the version exists. Its layers must all be there.
  void add_version(const Manifest& manifest, std::string_view json, std::string_view signature, const Hold&);
  /// Manifest and signature as they lie on disk, checked.
  struct Signed {
    Manifest manifest;
    std::string json, signature;
  };
  [[nodiscard]] Signed load(const Version& version) const;
  [[nodiscard]] std::string scratch_dir() const;  ///< for half files; gc empties it

  struct Freed {
    std::vector<std::string> versions, layers;
    uint64_t bytes = 0;
    unsigned scratch = 0;  ///< half files of builds that died
  };
  /// Removes half files, layers that no version names and, when `keep` > 0, all but the newest
  /// `keep` versions of each template. What `in_use` names stays: versions (name@version) with
  /// their layers, and layers; it is asked while nobody else writes. `dry_run` only tells.
  Freed gc(unsigned keep, const std::function<std::vector<std::string>()>& in_use, bool dry_run = false);

  [[nodiscard]] base::Keys keys() const;

 private:
  [[nodiscard]] std::optional<Version> newest(std::string_view name) const;
  [[nodiscard]] std::string manifest_path(const Version& version) const;
  [[nodiscard]] base::Fd lock(int kind) const;
  std::string state_dir_;
};

/// The name that a layer with the bytes of `path` has. `at` is told the bytes read so far.
std::string digest_of_file(const std::string& path, const std::function<void(uint64_t)>& at = {});

/// Gives the template version `reference` to a `receive` at the other end: manifest, signature and
/// those layers that it does not have (docs/formats/template-stream.md). Returns the bytes of
/// layers sent. An end that is silent for 60 s is an Error; so is a refusal, in its words.
uint64_t send_missing(base::Context& context, const Store& store, std::string_view reference, int in,
                      int out);

/// The other end: checks signature and hashes while it writes; the version exists in `store`
/// afterwards, or nothing but whole layers was added. Takes no byte beyond its part from `in`.
Manifest receive(base::Context& context, Store& store, int in, int out);

}  // namespace templates
