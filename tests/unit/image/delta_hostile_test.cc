#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "base/mount.h"
#include "image/delta.h"
#include "tests/unit/image/image_samples.h"

namespace image {
namespace {

using nlohmann::json;

/// A good delta, to be spoiled.
class HostileDelta : public ::testing::Test {
 protected:
  HostileDelta() {
    std::map<std::string, std::string> parts = sample_parts();
    write_image(old_dir_, keys_, parts);
    parts["initrd"].insert(77, "xyz");
    write_image(new_dir_, keys_, parts, "2026112802");
    make_delta(here_.context, old_dir_, new_dir_, keys_, file_);
    whole_ = base::read_file(file_);
    head_ = parse_delta_head(whole_.substr(0, kDeltaHead));
  }

  /// What is said when a file of these bytes is applied.
  std::string says(const std::string& bytes) {
    base::write_file(file_, bytes);
    std::string error = thrown([&] { apply_delta(here_.context, file_, old_dir_, out_dir_, keys_); });
    EXPECT_FALSE(base::exists(out_dir_));
    EXPECT_FALSE(base::exists(out_dir_ + ".half"));
    base::remove_tree(out_dir_);
    return error;
  }
  /// With a header in which one key is another one.
  std::string with(const std::string& pointer, const json& value) {
    json header = json::parse(whole_.substr(kDeltaHead, head_.header));
    header[json::json_pointer(pointer)] = value;
    std::string text = header.dump();
    DeltaHead head = head_;
    head.header = static_cast<uint32_t>(text.size());
    return says(render(head) + text + whole_.substr(kDeltaHead + head_.header));
  }

  TestContext here_;
  base::TempDir temporary_ = base::TempDir::make("/tmp", "hostile-delta-");
  base::Keys keys_{temporary_.path() + "/keys"};
  std::string old_dir_ = temporary_.path() + "/old", new_dir_ = temporary_.path() + "/new";
  std::string out_dir_ = temporary_.path() + "/out", file_ = temporary_.path() + "/delta";
  std::string whole_;
  DeltaHead head_;
};

TEST_F(HostileDelta, EveryTruncationIsRefused) {
  for (size_t size = 0; size < whole_.size(); size += 1 + whole_.size() / 60)
    EXPECT_NE(says(whole_.substr(0, size)), "") << size;
  EXPECT_TRUE(says("").contains("this is not an image delta"));
  EXPECT_TRUE(says(whole_.substr(0, whole_.size() - 1)).contains("the delta ends too early"));
  EXPECT_TRUE(says(whole_ + "x").contains("the delta goes on where it should end"));
}

TEST_F(HostileDelta, EveryFlippedBitIsRefusedOrMakesTheSame) {
  for (size_t at = 0; at < whole_.size(); at += 1 + whole_.size() / 200) {
    std::string flipped = whole_;
    flipped[at] = static_cast<char>(flipped[at] ^ 4);
    base::write_file(file_, flipped);
    std::string error = thrown([&] { apply_delta(here_.context, file_, old_dir_, out_dir_, keys_); });
    EXPECT_EQ(error.empty(), base::exists(out_dir_)) << at;
    // Where the reference of the old image is another one, nothing else is.
    if (base::exists(out_dir_)) {
      EXPECT_EQ(read_image(out_dir_, keys_), read_image(new_dir_, keys_)) << at;
    }
    base::remove_tree(out_dir_);
  }
}

TEST_F(HostileDelta, AnotherKeysManifestIsRefused) {
  write_manifest(new_dir_, read_image(new_dir_, keys_), base::Keys(temporary_.path() + "/other"));
  std::string signature = base::read_file(new_dir_ + "/manifest.json.minisig");
  size_t at = kDeltaHead + head_.header + head_.manifest;
  DeltaHead head = head_;
  head.signature = static_cast<uint32_t>(signature.size());
  EXPECT_TRUE(says(render(head) + whole_.substr(kDeltaHead, at - kDeltaHead) + signature +
                   whole_.substr(at + head_.signature))
                  .contains("the delta's manifest is not signed by a key that is trusted here"));
}

TEST_F(HostileDelta, HeadersAreRefusedByKey) {
  const std::vector<std::tuple<const char*, json, const char*>> cases = {
      {"/from", 5, "from: expected a text"},
      {"/sources/0/name", "../../etc/shadow", "sources.name: expected the name of a part"},
      {"/sources/0/name", "/etc/shadow", "sources.name: expected the name of a part"},
      {"/sources/0/name", std::string(5000, 'x'), "sources.name: expected a shorter text"},
      {"/sources/0/name", "root.img", "sources: expected each part once"},
      {"/sources/0/bytes", 18446744073709551615u, "sources.bytes: expected"},
      {"/sources/0/sha256", "x", "sources.sha256: expected 64 hex digits"},
      {"/sources/0/sha256", std::string(64, '0'),
       "expected one for boot.cfg, which is not as in the old image"},
      {"/sources", json::array(), "sections.prefix: expected null"},
      {"/sections", json::array(), "expected one for initrd"},
      {"/sections/0/part", "../x", "sections.part: expected the name of a part of the new image"},
      {"/sections/0/part", "root.img", "sections: expected each part once"},
      {"/sections/0/bytes", 18446744073709551615u, "sections.bytes: expected"},
      {"/sections/0/bytes", uint64_t{1} << 39, "the delta ends too early"},
      {"/sections/0/window_log", 9, "sections.window_log: expected 10 or more"},
      {"/sections/0/window_log", 24, "sections.window_log: expected a whole number up to 23"},
      {"/sections/0/window_log", 23, "memory: expected"},
      {"/sections/0/prefix", {{"source", 99}, {"bytes", 1}}, "sections.prefix.source: expected"},
      {"/sections/0/prefix", {{"source", 0}, {"bytes", 1u << 30}}, "sections.prefix.bytes: expected"},
      {"/memory", 0, "memory: expected"},
      {"/memory", 18446744073709551615u, "memory: expected"},
  };
  for (const auto& [pointer, value, expected] : cases) {
    std::string error = with(pointer, value);
    EXPECT_TRUE(error.contains(expected)) << pointer << " = " << value << "\n" << error;
  }
}

TEST_F(HostileDelta, OversizedPiecesAreNotEvenRead) {
  std::string huge = whole_;
  huge.replace(8, 12, std::string(12, '\xff'));
  EXPECT_TRUE(says(huge).contains("its header, manifest or signature is too large"));
}

TEST(DeltaStep, IsOneOfTheKnown) {
  const DeltaOp copy = {
      .kind = DeltaOp::Kind::kCopy, .source = 3, .offset = uint64_t{1} << 40, .length = 512};
  EXPECT_EQ(parse_delta_op(render(copy)), copy);
  for (DeltaOp bad :
       {DeltaOp{.kind = DeltaOp::Kind(0), .length = 512}, DeltaOp{.kind = DeltaOp::Kind(5), .length = 512},
        DeltaOp{.kind = DeltaOp::Kind::kNew, .length = 0},
        DeltaOp{.kind = DeltaOp::Kind::kNew, .offset = 1, .length = 512},
        DeltaOp{.kind = DeltaOp::Kind::kZeros, .source = 1, .length = 512}})
    EXPECT_THROW((void)parse_delta_op(render(bad)), base::Error);
}

}  // namespace
}  // namespace image
