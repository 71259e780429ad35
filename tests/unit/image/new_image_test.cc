#include "image/new_image.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "base/fd.h"
#include "base/mount.h"
#include "tests/unit/base/samples.h"

namespace image {
namespace {

class PlaceOfImage : public testing::Test {
 protected:
  [[nodiscard]] std::string refused(const std::string& out) const {
    return base::thrown([&] { (void)place_of_image(top() + out); });
  }
  [[nodiscard]] std::string top() const { return directory_.path(); }

 private:
  base::TempDir directory_ = base::TempDir::make("/tmp", "place-");
};

TEST_F(PlaceOfImage, IsFreeOrAnEmptyDirectoryOrAnImage) {
  EXPECT_EQ(place_of_image(top() + "/new"), top() + "/new");
  EXPECT_EQ(place_of_image(top() + "/more/new/"), top() + "/more/new");
  base::make_directories(top() + "/there");
  EXPECT_EQ(place_of_image(top() + "/there/"), top() + "/there");
  EXPECT_EQ(place_of_image(top() + "/there/."), top() + "/there");
  for (const char* file : {"manifest.json", "manifest.json.minisig", "root.img", "disk.img"})
    base::write_file(top() + "/there/" + file, "");
  base::make_directories(top() + "/there/loader");
  std::filesystem::create_symlink("there", top() + "/link");
  EXPECT_EQ(place_of_image(top() + "/link"), top() + "/there");
}

TEST_F(PlaceOfImage, IsNothingThatWouldBeLost) {
  base::make_directories(top() + "/there");
  base::write_file(top() + "/there/root.img", "");
  base::write_file(top() + "/there/notes", "");
  std::string error = refused("/there");
  EXPECT_TRUE(error.contains("/there has notes in it, which is no part of an image")) << error;
  EXPECT_TRUE(error.contains("name another directory")) << error;
  EXPECT_TRUE(refused("/there/notes").contains("/notes is no directory"));
}

}  // namespace
}  // namespace image
