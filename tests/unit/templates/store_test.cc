#include "templates/store.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include "templates/copy.h"
#include "tests/unit/templates/samples.h"

namespace templates {
namespace {

class StoreTest : public testing::Test {
 protected:
  Store& store() { return here_.store(); }
  std::string versions_dir(const std::string& name) { return here_.path() + "/templates/" + name; }

  TestStore here_;
  Layer os_ = here_.add_layer("an OS"), app_ = here_.add_layer("an application");
};

void change(const std::string& path, const std::string& text) {
  ASSERT_EQ(::chmod(path.c_str(), 0644), 0);
  base::write_file(path, text);
}

TEST_F(StoreTest, FindsTheNewestOrTheOneThatIsNamed) {
  here_.add_version("redis", "2026112001", {os_});
  here_.add_version("redis", "2026112102", {os_, app_});
  here_.add_version("redis", "2026112101", {os_});
  EXPECT_EQ(store().resolve("redis").version, "2026112102");
  EXPECT_EQ(store().resolve("redis@2026112001").version, "2026112001");
  EXPECT_EQ(store().find("redis@2026112199"), std::nullopt);
  EXPECT_EQ(store().find("web"), std::nullopt);
  EXPECT_EQ(store().resolve("redis").layers, (std::vector{os_, app_}));
}

TEST_F(StoreTest, WhatIsNotThereIsSaidWithWhatIs) {
  EXPECT_TRUE(thrown([&] { (void)store().resolve("web"); }).contains("drover template build"));
  here_.add_version("redis", "2026112001", {os_});
  EXPECT_TRUE(thrown([&] { (void)store().resolve("web"); }).contains("hint: there are: redis@2026112001"));
}

TEST_F(StoreTest, ReferencesCannotLeaveTheStore) {
  for (const char* reference :
       {"../x", "/etc/passwd", "a/../../b", "redis@../../x", "", "redis@2026112001/.."})
    EXPECT_TRUE(thrown([&] { (void)store().find(reference); }).contains("is not a template")) << reference;
  EXPECT_TRUE(
      thrown([&] { (void)store().layer_path("sha256:../../etc/passwd"); }).contains("is not a layer's name"));
}

TEST_F(StoreTest, OneFlippedBitInALayerIsRefusedByItsName) {
  std::string path = store().layer_path(os_.digest), text = base::read_file(path);
  EXPECT_NO_THROW(store().verify_layer(os_));
  text[2] = static_cast<char>(text[2] ^ 1);
  change(path, text);
  std::string error = thrown([&] { store().verify_layer(os_); });
  EXPECT_TRUE(error.contains("layer " + os_.digest + " is damaged: its bytes are those of sha256:")) << error;
  EXPECT_TRUE(store().has_layer(os_)) << "only its bytes tell";
}

TEST_F(StoreTest, LayersThatAreCutOrMissingAreNamed) {
  change(store().layer_path(os_.digest), "an O");
  EXPECT_FALSE(store().has_layer(os_));
  EXPECT_TRUE(thrown([&] { store().verify_layer(os_); }).contains("it has 4 bytes instead of 5"));
  base::remove_tree(store().layer_path(os_.digest));
  EXPECT_TRUE(thrown([&] { store().verify_layer(os_); }).contains(os_.digest + " is missing"));
}

TEST_F(StoreTest, VerifyJudgesEachTemplate) {
  here_.add_version("good", "2026112001", {os_});
  here_.add_version("bad", "2026112001", {os_, app_});
  change(store().layer_path(app_.digest), "an applicatiom");
  TestContext test;
  auto verdicts = verify(test.context, store(), {});
  ASSERT_EQ(verdicts.size(), 2u);
  EXPECT_EQ(verdicts[0].reference, "bad@2026112001");
  EXPECT_TRUE(verdicts[0].problem.contains(app_.digest + " is damaged"));
  EXPECT_EQ(verdicts[1].problem, "");
}

TEST_F(StoreTest, ManifestsThatWereChangedAreRefused) {
  here_.add_version("redis", "2026112001", {os_});
  std::string path = versions_dir("redis") + "/2026112001.json", text = base::read_file(path);
  change(path, text + " ");
  EXPECT_TRUE(thrown([&] { (void)store().find("redis"); }).contains("does not match its signature"));
  change(path, text);
  EXPECT_NO_THROW((void)store().find("redis"));
  base::remove_tree(path + ".minisig");
  EXPECT_TRUE(thrown([&] { (void)store().find("redis"); }).contains("has no signature"));
}

TEST_F(StoreTest, ASignedManifestCountsOnlyUnderItsOwnName) {
  here_.add_version("shell", "2026112001", {os_});
  base::make_directories(versions_dir("redis"));
  for (const char* end : {".json", ".json.minisig"})
    base::write_file(versions_dir("redis") + "/2026112001" + end,
                     base::read_file(versions_dir("shell") + "/2026112001" + end));
  EXPECT_TRUE(
      thrown([&] { (void)store().find("redis"); }).contains("holds the manifest of shell@2026112001"));
}

TEST_F(StoreTest, AVersionNeedsItsLayersAndIsNeverReplaced) {
  Layer nowhere = {.digest = "sha256:" + std::string(64, '0'), .bytes = 1};
  EXPECT_TRUE(thrown([&] { here_.add_version("redis", "2026112001", {nowhere}); }).contains("is missing"));
  EXPECT_EQ(store().versions().size(), 0u);
  here_.add_version("redis", "2026112001", {os_});
  EXPECT_TRUE(thrown([&] {
                here_.add_version("redis", "2026112001", {app_});
              }).contains("another redis@2026112001 is here already"));
  EXPECT_EQ(store().resolve("redis").layers, std::vector{os_});
  EXPECT_EQ(thrown([&] { here_.add_version("redis", "2026112001", {os_}); }), "") << "the same again is fine";
}

TEST_F(StoreTest, OtherFilesInTheStoreAreNotVersions) {
  here_.add_version("redis", "2026112001", {os_});
  base::write_file(versions_dir("redis") + "/.new-abc", "");
  base::write_file(versions_dir("redis") + "/2026112001.json~", "");
  base::make_directories(versions_dir("Not-A-Name"));
  ASSERT_EQ(store().versions().size(), 1u);
  EXPECT_EQ(store().versions()[0].reference(), "redis@2026112001");
}

TEST_F(StoreTest, GcTakesOnlyWhatNobodyNeeds) {
  here_.add_version("debian", "2026112001", {os_});
  here_.add_version("redis", "2026112001", {os_});
  base::make_directories(store().scratch_dir() + "/layer-x");
  base::write_file(versions_dir("redis") + "/.new-abc", "half");
  auto told = store().gc(0, {}, /*dry_run=*/true);
  EXPECT_EQ(told.layers, std::vector{app_.digest});
  EXPECT_TRUE(store().has_layer(app_)) << "a dry run takes nothing";
  auto freed = store().gc(0, {});
  EXPECT_EQ(freed.layers, std::vector{app_.digest});
  EXPECT_EQ(freed.scratch, 2u);
  EXPECT_FALSE(store().has_layer(app_));
  EXPECT_TRUE(store().has_layer(os_));
  EXPECT_FALSE(base::exists(versions_dir("redis") + "/.new-abc"));
}

TEST_F(StoreTest, GcKeepsTheNewestVersionsAndThoseInUse) {
  here_.add_version("redis", "2026111801", {here_.add_layer("one")});
  here_.add_version("redis", "2026111901", {here_.add_layer("two")});
  here_.add_version("redis", "2026112001", {os_});
  auto freed = store().gc(1, [] { return std::vector<std::string>{"redis@2026111801"}; });
  EXPECT_EQ(freed.versions, std::vector<std::string>{"redis@2026111901"});
  EXPECT_EQ(freed.layers.size(), 2u) << "two's, and the application's that nobody names";
  EXPECT_TRUE(store().find("redis@2026111801"));
  EXPECT_NO_THROW(store().verify_layer(store().resolve("redis@2026111801").layers[0]));
}

TEST_F(StoreTest, GcKeepsTheLayersOfABoxWhoseVersionIsGone) {
  auto freed = store().gc(1, [&] { return std::vector<std::string>{"redis@2026111801", app_.digest}; });
  EXPECT_EQ(freed.layers, std::vector{os_.digest});
  EXPECT_TRUE(store().has_layer(app_));
}

TEST_F(StoreTest, GcStopsWhenItCannotTellWhatIsNeeded) {
  here_.add_version("redis", "2026112001", {os_});
  change(versions_dir("redis") + "/2026112001.json", "{");
  EXPECT_TRUE(thrown([&] { store().gc(0, {}); }).contains("reading which layers redis@2026112001 needs"));
  EXPECT_TRUE(store().has_layer(os_));
}

}  // namespace
}  // namespace templates
