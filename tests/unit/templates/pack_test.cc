#include "templates/pack.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "rootfs/erofs.h"
#include "tests/unit/templates/samples.h"

namespace templates {
namespace {

namespace fs = std::filesystem;

class PackTest : public testing::Test {
 protected:
  void put(const std::string& path, const std::string& text) {
    base::make_directories(fs::path(root() + path).parent_path());
    base::write_file(root() + path, text);
  }
  [[nodiscard]] std::string root() const { return directory_.path() + "/root"; }

  base::TempDir directory_ = base::TempDir::make("/tmp", "pack-");
};

TEST_F(PackTest, AnImageIsNeverLargerThanForeseen) {
  for (int i = 0; i < 300; ++i)
    put(std::format("/dir{}/a-file-with-a-long-name-{}", i % 7, i), std::string(i * 37, 'x'));
  uint64_t most = rootfs::settle(root(), 5000).most_packed;
  TestContext test;
  Layer layer = pack(test.context, root(), 5000, "seed", most, directory_.path() + "/image");
  EXPECT_LE(layer.bytes, most);
  EXPECT_TRUE(thrown([&] {
                pack(test.context, root(), 5000, "seed", uint64_t{1} << 60, directory_.path() + "/image");
              }).contains("no space left in"));
}

TEST_F(PackTest, OnlyWhatSaysSomethingNewStaysInAnUpper) {
  std::string upper = directory_.path() + "/upper";
  for (const std::string& top : {root(), upper}) {
    fs::create_directories(top + "/etc/same");
    base::write_file(top + "/etc/same/file", "same");
    base::write_file(top + "/etc/other", top);
    base::write_file(top + "/etc/mode", "same");
    fs::create_symlink("same", top + "/etc/link");
  }
  fs::permissions(upper + "/etc/mode", fs::perms(0600));
  base::write_file(upper + "/etc/new", "");
  fs::create_directory(upper + "/etc/empty");
  reduce_upper(upper, root());
  EXPECT_FALSE(base::exists(upper + "/etc/same")) << "with all that is in it";
  EXPECT_FALSE(base::exists(upper + "/etc/link"));
  EXPECT_TRUE(base::exists(upper + "/etc/other") && base::exists(upper + "/etc/mode"));
  EXPECT_TRUE(base::exists(upper + "/etc/new") && base::exists(upper + "/etc/empty"));
}

}  // namespace
}  // namespace templates
