#include "image/contents.h"

#include <gtest/gtest.h>

#include "tests/unit/image/image_samples.h"
#include "tests/unit/image/tree_samples.h"

namespace image {
namespace {

using Sizes = std::map<std::string, uint64_t>;

TEST(ImageContents, SayWhatTakesTheSpace) {
  SampleTree tree;
  tree.put("/usr/bin/a", std::string(10, 'x'));
  tree.put("/usr/lib/x86_64-linux-gnu/deep/below/b", std::string(200, 'x'));
  tree.put("/usr/lib/x86_64-linux-gnu/c", std::string(3000, 'x'));
  tree.put("/etc/placed", std::string(40'000, 'x'));
  tree.put("/top", "x");
  tree.put("/usr/share/empty", "");
  tree.link("/usr/bin/link", "a");
  Installed installed = {.packages = {},
                         .owner = {{"/usr/bin/a", "pa"},
                                   {"/usr/bin/link", "pa"},
                                   {"/lib/x86_64-linux-gnu/c", "pc"},  // as dpkg's old lists say it
                                   {"/usr/lib/x86_64-linux-gnu/deep/below/b", "pb"},
                                   {"/usr/share/empty", "pe"},
                                   {"/usr/bin/gone", "pg"}}};
  Contents contents = contents_of(tree.path(), installed, {{"documentation", {.files = 3, .bytes = 7}}});
  EXPECT_EQ(contents.packages, (Sizes{{"pa", 10}, {"pb", 200}, {"pc", 3000}, {"pe", 0}, {"-", 40'001}}));
  EXPECT_EQ(contents.directories, (Sizes{{"/usr/bin", 10},
                                         {"/usr/lib/x86_64-linux-gnu", 3200},
                                         {"/etc", 40'000},
                                         {"/", 1},
                                         {"/usr/share", 0}}));
  EXPECT_EQ(contents.bytes, 43'211u);
  EXPECT_EQ(contents.removed["documentation"].files, 3u);
}

TEST(ImageContents, AHardLinkCountsOnce) {
  SampleTree tree;
  tree.put("/a/1", std::string(10, 'x'));
  for (const char* name : {"2", "3"})
    std::filesystem::create_hard_link(tree.path() + "/a/1", tree.path() + "/a/" + name);
  EXPECT_EQ(contents_of(tree.path(), {}, {}).bytes, 10u);
}

TEST(ImageContents, AreReadAsTheyWereWritten) {
  Contents contents = {.packages = {{"a", 1}, {"-", uint64_t{1} << 60}},
                       .directories = {{"/usr/lib", 2}},
                       .removed = {{"drop /usr/x\"*", {.files = 3, .bytes = 4}}},
                       .bytes = 5};
  Contents read = Contents::parse(contents.render());
  EXPECT_EQ(read.packages, contents.packages);
  EXPECT_EQ(read.directories, contents.directories);
  EXPECT_EQ(read.bytes, 5u);
  ASSERT_EQ(read.removed.size(), 1u);
  EXPECT_EQ(read.removed.begin()->second.files, 3u);
  EXPECT_EQ(read.removed.begin()->second.bytes, 4u);
  EXPECT_EQ(read.render(), contents.render());
}

TEST(ImageContents, OtherTextsAreRefused) {
  const std::string start = "{\"format\": 1, \"bytes\": 1, \"packages\": {\"a\": ";
  const std::string end = "}, \"directories\": {}, \"removed\": {}}";
  EXPECT_EQ(thrown([&] { Contents::parse(start + "1" + end); }), "");
  for (const char* value : {"-1", "1.5", "\"1\"", "null", "{}", "1e99", "18446744073709551616"})
    EXPECT_TRUE(thrown([&] { Contents::parse(start + value + end); }).contains("contents.json is damaged"))
        << value;
  for (const char* text : {"", "{", "[]", "{}", "null", "{\"format\": \"1\"}"})
    EXPECT_TRUE(thrown([&] { Contents::parse(text); }).contains("contents.json is damaged")) << text;
  EXPECT_TRUE(
      thrown([] { Contents::parse("{\"format\": 2}"); }).contains("contents.json has format 2, expected 1"));
}

}  // namespace
}  // namespace image
