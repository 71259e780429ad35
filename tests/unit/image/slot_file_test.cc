#include "image/slot_file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <string>

#include "base/error.h"
#include "base/fd.h"

namespace image {
namespace {

class SlotFile : public testing::Test {
 protected:
  std::string path_ = testing::TempDir() + "slot-state-" + std::to_string(getpid());
  void TearDown() override { unlink(path_.c_str()); }
};

TEST_F(SlotFile, IsWrittenInPlace) {
  SlotState installed = SlotState{}.activate(Slot::kA, 3);
  base::write_file(path_, render(SlotState{}));
  struct stat before = {};
  struct stat after = {};
  ASSERT_EQ(stat(path_.c_str(), &before), 0);
  write_slot_state(path_, installed);
  ASSERT_EQ(stat(path_.c_str(), &after), 0);
  EXPECT_EQ(before.st_ino, after.st_ino);
  EXPECT_EQ(base::read_file(path_), render(installed));
  EXPECT_EQ(read_slot_state(path_), installed);
}

TEST_F(SlotFile, IsNeitherMadeNorGrownNorShrunk) {
  EXPECT_THROW(write_slot_state(path_, {}), base::Error);
  EXPECT_FALSE(base::exists(path_));
  for (size_t size : {size_t{0}, kSectorSize - 1, kSectorSize + 1, 2 * kSectorSize}) {
    std::string content(size, '#');
    base::write_file(path_, content);
    EXPECT_THROW(write_slot_state(path_, {}), base::Error) << size;
    EXPECT_EQ(base::read_file(path_), content);
    EXPECT_THROW(read_slot_state(path_), base::Error) << size;
    unlink(path_.c_str());
  }
}

TEST_F(SlotFile, IsNamedWhenItIsRefused) {
  base::write_file(path_, std::string(kSectorSize, 'x'));
  try {
    read_slot_state(path_);
    FAIL() << "taken";
  } catch (const base::Error& error) {
    EXPECT_NE(error.render().find("while reading " + path_), std::string::npos) << error.render();
  }
}

}  // namespace
}  // namespace image
