#include "image/plan.h"

#include <gtest/gtest.h>

#include "base/mount.h"
#include "tests/unit/image/image_samples.h"

namespace image {
namespace {

constexpr int64_t kClock = 1'795'860'000;  // 2026-11-28, 10:00 UTC

Definition definition(const std::string& name = "node-vm") {
  return parse_definition("name = \"" + name +
                              "\"\nsuite = \"trixie\"\npackages = [\"kmod\", \"criu/sid\", \"libcriu2/sid\", "
                              "\"udev/trixie\", \"ipxe/forky\"]\nhardware = [\"virtio\"]\n",
                          "x.toml", "/nonexistent");
}

TEST(Plan, OtherSuitesGiveOnlyWhatIsAskedOfThem) {
  rootfs::Origin origin = origin_of(definition(), /*offline=*/false);
  EXPECT_EQ(origin.suite, "trixie");
  EXPECT_EQ(origin.more_suites, (std::map<std::string, std::vector<std::string>>{
                                    {"sid", {"criu", "libcriu2"}}, {"forky", {"ipxe"}}}));
}

TEST(Plan, AVersionIsADayAndACount) {
  Plan plan = {.packages = {}, .own_packages = {}, .inputs = {{"definition", "1"}}};
  auto next = [&](const std::optional<Manifest>& there, const BuildOptions& options = {}) {
    return next_version(there, definition(), plan, options, kClock);
  };
  EXPECT_EQ(next(std::nullopt), "2026112801");
  BuildOptions asked;
  asked.version = "2030010199";
  EXPECT_EQ(next(std::nullopt, asked), "2030010199");
  Manifest there = sample_manifest();
  there.version = "2026112807";
  EXPECT_EQ(next(there), "2026112808") << "made of something else";
  there.version = "2026112707";
  EXPECT_EQ(next(there), "2026112801") << "a new day";
  there.version = "2027010101";
  EXPECT_EQ(next(there), "2027010102") << "a version never goes back";
  there.inputs = plan.inputs;
  EXPECT_EQ(next(there), "2027010101") << "the same gets the same";
  there.inputs = {};
  there.name = "another";
  EXPECT_EQ(next(there), "2026112801");
}

BuildOptions building(const std::string& out) {
  BuildOptions options;
  options.out = out;
  return options;
}

class Current : public ::testing::Test {
 protected:
  bool current() {
    return is_current(*image_there(here_.context, options_, keys_), definition(), plan_, options_);
  }

  TestContext here_;
  base::TempDir directory_ = base::TempDir::make("/tmp", "image-plan-");
  base::Keys keys_{directory_.path() + "/keys"};
  BuildOptions options_ = building(directory_.path() + "/image");
  Manifest there_ = write_image(options_.out, keys_, sample_parts());
  Plan plan_ = {.packages = {}, .own_packages = {}, .inputs = there_.inputs};
};

TEST_F(Current, WhatIsMadeOfTheSameAndWhole) {
  EXPECT_TRUE(current());
  options_.version = there_.version;
  EXPECT_TRUE(current());
  options_.version = "2030010101";
  EXPECT_FALSE(current());
}

TEST_F(Current, NotWithOtherInputsOrByForce) {
  options_.rebuild = true;
  EXPECT_FALSE(current());
  options_.rebuild = false;
  plan_.inputs["tools"] = std::string(64, '0');
  EXPECT_FALSE(current());
}

TEST_F(Current, NotOfAnotherName) { EXPECT_FALSE(is_current(there_, definition("other"), plan_, options_)); }

TEST_F(Current, NotWithAPartThatIsGoneOrCutOff) {
  std::string file = options_.out + "/initrd", bytes = base::read_file(file);
  base::write_file(file, bytes.substr(1));
  EXPECT_FALSE(current());
  base::write_file(file, bytes);
  EXPECT_TRUE(current());
  base::remove_tree(file);
  EXPECT_FALSE(current());
}

TEST_F(Current, OnlyWhatATrustedKeyHasSignedIsThere) {
  EXPECT_EQ(image_there(here_.context, options_, keys_), there_);
  EXPECT_EQ(image_there(here_.context, options_, base::Keys(directory_.path() + "/other")), std::nullopt);
  base::write_file(options_.out + "/manifest.json", "{}");
  EXPECT_EQ(image_there(here_.context, options_, keys_), std::nullopt);
  options_.out += "-none";
  EXPECT_EQ(image_there(here_.context, options_, keys_), std::nullopt);
}

}  // namespace
}  // namespace image
