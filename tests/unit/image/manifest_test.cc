#include "image/manifest.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "base/error.h"
#include "base/mount.h"
#include "tests/unit/image/image_samples.h"

namespace image {
namespace {

using nlohmann::json;

TEST(ImageManifest, IsReadAsItWasWritten) {
  Manifest manifest = sample_manifest();
  EXPECT_EQ(Manifest::parse(manifest.render()), manifest);
}

TEST(ImageManifest, IsTheSameInWhateverOrderItWasMade) {
  Manifest manifest = sample_manifest();
  std::ranges::reverse(manifest.parts);
  std::ranges::reverse(manifest.packages);
  EXPECT_EQ(manifest.render(), sample_manifest().render());
}

TEST(ImageManifest, IgnoresKeysThatItDoesNotKnow) {
  json document = json::parse(sample_manifest().render());
  document["since"] = "tomorrow";
  EXPECT_EQ(Manifest::parse(document.dump()), sample_manifest());
}

TEST(ImageManifest, FindsItsParts) {
  Manifest manifest = sample_manifest();
  EXPECT_EQ(manifest.at("loader/boot.img").bytes, 1u);
  EXPECT_EQ(manifest.find("manifest.json"), nullptr);
  EXPECT_EQ(thrown([&] { (void)manifest.at("x"); }), "error: node-vm@2026112801 has no x\n");
}

/// A manifest with one key changed, and what the error must say.
struct Hostile {
  const char* pointer;
  json value;
  const char* says;
};

TEST(ImageManifest, HostileOnesAreRefusedByKey) {
  const Hostile cases[] = {
      {"/format", "drover-image-2", "the format \"drover-image-2\""},
      {"/name", "../../etc", "name: expected"},
      {"/name", "", "name: expected"},
      {"/name", "Node", "name: expected"},
      {"/name", std::string(64, 'a'), "name: expected"},
      {"/name", 5, "name: expected a text"},
      {"/version", "20261121", "version: expected YYYYMMDDnn"},
      {"/version", "202611210x", "version: expected YYYYMMDDnn"},
      {"/suite", "../trixie", "suite: expected"},
      {"/architecture", "amd 64", "architecture: expected"},
      {"/clock", -1, "clock: expected"},
      {"/clock", 1e300, "clock: expected"},
      {"/clock", 253402300800u, "clock: expected"},
      {"/definition_hash", "xyz", "definition_hash: expected 64 hex digits"},
      {"/definition_hash", std::string(64, 'A'), "definition_hash: expected"},
      {"/kernel_version", "../../6.12", "kernel_version: expected"},
      {"/kernel_version", "6.12/x", "kernel_version: expected"},
      {"/kernel_version", ".", "kernel_version: expected"},
      {"/drover_version", "0.1\n", "drover_version: expected"},
      {"/parts", json::object(), "parts: expected a list"},
      {"/parts", json::array(), "parts: expected boot.cfg among them"},
      {"/parts", json(std::vector<json>(100, json::object())), "parts: expected a list of at most 14"},
      {"/parts/0", 7, "parts: expected an object"},
      {"/parts/0/name", "../boot.cfg", "not \"../boot.cfg\""},
      {"/parts/0/name", "/etc/passwd", "not \"/etc/passwd\""},
      {"/parts/0/name", "loader/../boot.cfg", "not \"loader/../boot.cfg\""},
      {"/parts/0/name", "manifest.json", "not \"manifest.json\""},
      {"/parts/0/name", "boot.cfg\n", "not \"boot.cfg\\n\""},
      {"/parts/0/name", std::string(5000, 'x'), "parts.name: expected a shorter text"},
      {"/parts/0/name", std::string("boot.cfg\0", 9), "parts.name: expected a shorter text"},
      {"/parts/0/name", "disk.img", "parts: expected each part once, sorted by name"},
      {"/parts/1/name", "boot.cfg", "parts: expected each part once, sorted by name"},
      {"/parts/0/bytes", -1, "parts.bytes: expected"},
      {"/parts/0/bytes", 18446744073709551615u, "parts.bytes: expected"},
      {"/parts/0/bytes", (uint64_t{1} << 40) + 1, "parts.bytes: expected"},
      {"/parts/0/bytes", 0.5, "parts.bytes: expected"},
      {"/parts/0/sha256", std::string(63, 'a'), "parts.sha256: expected 64 hex digits"},
      {"/parts/11/bytes", 4096, "parts: expected root.img to have 8192 bytes"},
      {"/root", nullptr, "root: expected an object"},
      {"/root/data_bytes", 0, "root.data_bytes: expected a multiple of 4096"},
      {"/root/data_bytes", 4097, "root.data_bytes: expected a multiple of 4096"},
      {"/root/data_bytes", 18446744073709547520u, "root.data_bytes: expected a whole number"},
      {"/root/data_bytes", 8192, "parts: expected root.img to have 16384 bytes"},
      {"/root/root_hash", "-", "root.root_hash: expected"},
      {"/root/salt", "", "root.salt: expected"},
      {"/root/salt", "abc", "root.salt: expected"},
      {"/root/salt", std::string(514, '0'), "root.salt: expected"},
      {"/root/uuid", "01234567-89ab-4cde-8f01_23456789abcd", "root.uuid: expected"},
      {"/root/uuid", "--help", "root.uuid: expected"},
      {"/slot_bytes", 4096, "slot_bytes: expected what root.img fits into"},
      {"/slot_bytes", (1 << 20) + 4096, "disk: expected what a disk can have, but the slots cannot have"},
      {"/disk", nullptr, "disk: expected an object"},
      {"/disk/esp_bytes", "64M", "disk.esp_bytes: expected a whole number"},
      {"/disk/esp_bytes", -1, "disk.esp_bytes: expected a whole number"},
      {"/disk/esp_bytes", 18446744073708503040u, "disk.esp_bytes: expected a whole number"},
      {"/disk/esp_bytes", 0, "disk: expected what a disk can have, but the ESP cannot have 0 bytes"},
      {"/disk/esp_bytes", (64 << 20) + 512, "disk: expected what a disk can have, but the ESP cannot have"},
      {"/disk/data_bytes", (uint64_t{1} << 40) + 1, "disk.data_bytes: expected a whole number"},
      {"/disk/data_bytes", 1 << 20, "but the data partition cannot have 1048576 bytes"},
      {"/disk/data_file_system", "../btrfs", "but the data partition's file system is ../btrfs"},
      {"/disk/data_file_system", "xfs", "but the data partition cannot have 67108864 bytes"},
      {"/disk/data_file_system", std::string(300, 'x'), "disk.data_file_system: expected a shorter text"},
      {"/packages/0", nullptr, "packages: expected an object"},
      {"/packages/0/name", "-x", "packages.name: expected"},
      {"/packages/0/name", "libstdc++6", "packages: expected each package once"},
      {"/packages/0/version", "1 2", "packages.version: expected"},
      {"/packages/0/architecture", std::string(65, 'x'), "packages.architecture: expected"},
      {"/packages/0/source", "\"", "packages.source: expected"},
      {"/inputs", json::array(), "inputs: expected an object"},
      {"/inputs", {{"a\nb", std::string(64, '0')}}, "inputs: expected keys of"},
      {"/inputs", {{"", std::string(64, '0')}}, "inputs: expected keys of"},
      {"/inputs", {{"a", 1}}, "inputs.a: expected 64 hex digits"},
      {"/node_memory", -1, "node_memory: expected"},
  };
  for (const auto& [pointer, value, says] : cases) {
    json document = json::parse(sample_manifest().render());
    document[json::json_pointer(pointer)] = value;
    std::string error = thrown([&] { Manifest::parse(document.dump()); });
    EXPECT_TRUE(error.contains(says)) << pointer << " = " << value << "\n" << error;
  }
}

TEST(ImageManifest, EveryKeyIsNeeded) {
  json whole = json::parse(sample_manifest().render());
  for (const auto& [key, value] : whole.items()) {
    json document = whole;
    document.erase(key);
    std::string error = thrown([&] { Manifest::parse(document.dump()); });
    EXPECT_TRUE(error.contains(key + ": expected it to be there")) << error;
  }
}

TEST(ImageManifest, EveryNeededPartIsNeeded) {
  for (const PartKind& kind : part_kinds()) {
    Manifest manifest = sample_manifest();
    std::erase_if(manifest.parts, [&](const Part& part) { return part.name == kind.name; });
    std::string error = thrown([&] { Manifest::parse(manifest.render()); });
    EXPECT_EQ(error.contains(std::string(kind.name) + " among them"), kind.needed) << kind.name << error;
  }
}

TEST(ImageManifest, OtherTextsAreRefused) {
  for (const char* text : {"", "{", "[]", "null", "7", "{\"format\": \"drover-image-1\"", "\xff\xfe"})
    EXPECT_TRUE(thrown([&] { Manifest::parse(text); }).contains("the manifest is malformed")) << text;
  EXPECT_TRUE(thrown([] { Manifest::parse(std::string(9 << 20, ' ')); }).contains("larger than 8.0 MiB"));
  EXPECT_TRUE(thrown([] { Manifest::parse(std::string(1 << 20, '[')); }).contains("not JSON"));
}

class SignedImage : public ::testing::Test {
 protected:
  std::string error() {
    std::string text = thrown([&] { read_image(directory_, keys_); });
    return text.substr(7, text.find('\n') - 7);
  }
  base::TempDir temporary_ = base::TempDir::make("/tmp", "image-manifest-");
  base::Keys keys_{temporary_.path() + "/keys"};
  std::string directory_ = temporary_.path() + "/image";
  std::string file_ = directory_ + "/manifest.json", signature_ = file_ + ".minisig";

  void SetUp() override {
    base::make_directories(directory_);
    write_manifest(directory_, sample_manifest(), keys_);
  }
};

TEST_F(SignedImage, IsReadWhenItIsSigned) { EXPECT_EQ(read_image(directory_, keys_), sample_manifest()); }

TEST_F(SignedImage, NothingIsSignedThatNobodyCouldRead) {
  Manifest manifest = sample_manifest();
  manifest.parts[0].name = "../x";
  EXPECT_TRUE(thrown([&] { write_manifest(directory_, manifest, keys_); }).contains("\"../x\""));
  EXPECT_EQ(read_image(directory_, keys_), sample_manifest());
}

TEST_F(SignedImage, EveryFlippedBitIsFound) {
  const std::string text = base::read_file(file_), signature = base::read_file(signature_);
  for (size_t at = 0; at < text.size(); at += 37) {
    std::string flipped = text;
    flipped[at] = static_cast<char>(flipped[at] ^ 1);
    base::write_file(file_, flipped);
    EXPECT_EQ(error(), file_ + " does not match its signature: it was changed after it was signed");
  }
  base::write_file(file_, text);
  base::write_file(signature_, signature.substr(0, signature.size() / 2));
  EXPECT_EQ(error(), "the signature of " + file_ + " is not in minisign's format");
}

TEST_F(SignedImage, AnotherKeyIsNotTrusted) {
  EXPECT_TRUE(thrown([&] {
                read_image(directory_, base::Keys(temporary_.path() + "/none"));
              }).contains("is not signed by a key that is trusted here"));
}

TEST_F(SignedImage, TheSignatureComesBeforeTheText) {
  base::write_file(file_, "{ this is not even JSON");
  EXPECT_TRUE(error().contains("does not match its signature"));
}

TEST_F(SignedImage, OnlyRegularFilesOfABoundedSizeAreRead) {
  ::unlink(signature_.c_str());
  EXPECT_EQ(error(), directory_ + " has no manifest.json.minisig");
  ASSERT_EQ(::mkfifo(signature_.c_str(), 0600), 0);
  EXPECT_EQ(error(), signature_ + " is not a regular file");
  ::unlink(signature_.c_str());
  ASSERT_EQ(::symlink("/dev/zero", signature_.c_str()), 0);
  EXPECT_EQ(error(), directory_ + " has no manifest.json.minisig");
  ::unlink(signature_.c_str());
  base::write_file(signature_, std::string(5000, 'x'));
  EXPECT_EQ(error(), signature_ + " is larger than 4.0 KiB");
}

}  // namespace
}  // namespace image
