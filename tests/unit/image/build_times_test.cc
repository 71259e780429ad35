#include "image/build_times.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "base/fd.h"
#include "base/mount.h"

namespace image {
namespace {

class BuildTimes : public testing::Test {
 protected:
  [[nodiscard]] double expected(const std::string& phase, const std::string& name = "node") const {
    auto times = expected_times(cache(), name);
    auto found = std::ranges::find(times, phase, &base::PhaseTime::phase);
    return found == times.end() ? -1 : found->seconds;
  }
  [[nodiscard]] std::string cache() const { return directory_.path() + "/cache"; }
  void write(const std::string& text) const {
    base::make_directories(cache() + "/image/times");
    base::write_file(cache() + "/image/times/node.json", text);
  }

  base::TempDir directory_ = base::TempDir::make("/tmp", "build-times");
};

TEST_F(BuildTimes, AreThoseOfTheLastBuild) {
  double usual = expected("pack");
  EXPECT_GT(usual, 0);
  keep_times(cache(), "node", {{"pack", 77}});
  EXPECT_EQ(expected("pack"), 77);
  EXPECT_EQ(expected("pack", "other"), usual);
}

TEST_F(BuildTimes, OfThePhasesThatItHad) {
  keep_times(cache(), "node", {{"install packages", 55}, {"pack", 20}});
  keep_times(cache(), "node", {{"unpack packages", 1}, {"pack", 21}});
  EXPECT_EQ(expected("install packages"), 55);
  EXPECT_EQ(expected("pack"), 21);
}

TEST_F(BuildTimes, NonsenseIsNotBelieved) {
  double usual = expected("pack");
  for (const char* text : {"", "{", "[]", "7", R"({"pack": "long"})", R"({"pack": null})"}) {
    write(text);
    EXPECT_EQ(expected("pack"), usual) << text;
  }
  write(R"({"pack": -5, "initrd": 1e300})");
  EXPECT_EQ(expected("pack"), 0);
  EXPECT_EQ(expected("initrd"), 3600);
}

TEST_F(BuildTimes, AreNotNeeded) {
  write("{}");
  base::remove_tree(cache() + "/image/times");
  base::write_file(cache() + "/image/times", "in the way");
  EXPECT_NO_THROW(keep_times(cache(), "node", {{"pack", 1}}));
}

}  // namespace
}  // namespace image
