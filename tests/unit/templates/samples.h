#pragma once
#include <string>

#include "base/fd.h"
#include "base/mount.h"
#include "templates/store.h"
#include "tests/unit/base/samples.h"

namespace templates {

using base::FakeRunner;
using base::TestContext;
using base::thrown;

/// A store of its own with templates whose layers are not images but known bytes.
class TestStore {
 public:
  TestStore() : directory_(base::TempDir::make("/tmp", "templates-")), store_(directory_.path()) {}

  [[nodiscard]] Store& store() { return store_; }
  [[nodiscard]] const std::string& path() const { return directory_.path(); }

  /// Puts a layer with these bytes into the store.
  Layer add_layer(const std::string& bytes) {
    Store::Hold hold = store_.hold();
    base::make_directories(store_.scratch_dir());
    std::string file = store_.scratch_dir() + "/layer";
    base::write_file(file, bytes);
    Layer layer = {.digest = digest_of_file(file), .bytes = bytes.size()};
    store_.adopt_layer(file, layer, hold);
    return layer;
  }

  /// A signed version with these layers.
  Manifest add_version(const std::string& name, const std::string& version, std::vector<Layer> layers) {
    Manifest manifest = sample(name, version, std::move(layers));
    std::string json = manifest.render();
    store_.add_version(manifest, json, store_.keys().sign(json, manifest.reference()), store_.hold());
    return manifest;
  }

  static Manifest sample(const std::string& name, const std::string& version, std::vector<Layer> layers) {
    Manifest manifest;
    manifest.name = name;
    manifest.version = version;
    manifest.description = "a \"sample\"\n";
    manifest.distribution = "trixie";
    manifest.architecture = "amd64";
    manifest.fingerprint = "sha256:" + std::string(64, 'f');
    manifest.clock = 1'750'000'000;
    manifest.layers = std::move(layers);
    manifest.packages = {{.name = "libc6", .version = "2.41-12", .architecture = "amd64"}};
    manifest.tree_bytes = 12;
    manifest.start.init = {"/sbin/init", "--a b"};
    manifest.start.env = {{"LANG", "C.UTF-8"}};
    return manifest;
  }

 private:
  base::TempDir directory_;
  Store store_;
};

}  // namespace templates
