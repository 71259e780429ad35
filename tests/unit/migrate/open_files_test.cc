#include "migrate/open_files.h"

#include "tests/unit/migrate/tree_tools.h"

namespace migrate {
namespace {

/// This process stands for a box whose root is /, and the test's directory for its private layer: the path of
/// each of its files is made below it once more.
class OpenFiles : public TreeTest {
 protected:
  base::Fd open(const std::string& name, int flags) const {
    base::make_directories(from(directory_.path()) + "/to");
    base::write_file(from(to(name)), "in the private layer");
    return base::open(to(name), flags | O_CREAT, 0600);
  }
  [[nodiscard]] std::optional<FileSet> found() const {
    base::Fd upper = base::open(from(), O_RDONLY | O_DIRECTORY);
    return files_open_for_writing({::getpid(), 1 << 30}, upper.get());
  }
  [[nodiscard]] std::pair<dev_t, ino_t> identity(const std::string& name) const {
    struct stat status{};
    if (::stat(from(to(name)).c_str(), &status) != 0) throw base::sys_error("stat");
    return {status.st_dev, status.st_ino};
  }
};

TEST_F(OpenFiles, ThoseOpenForWriting) {
  base::Fd read = open("read", O_RDONLY), write = open("write", O_WRONLY), both = open("both", O_RDWR);
  EXPECT_EQ((FileSet{identity("write"), identity("both")}), found());
  both.close();
  EXPECT_EQ((FileSet{identity("write")}), found());
  ASSERT_EQ(0, ::rename(from(to("write")).c_str(), from(to("moved")).c_str()));
  ASSERT_EQ(0, ::rename(to("write").c_str(), to("moved").c_str()));
  EXPECT_EQ((FileSet{identity("moved")}), found());
}

TEST_F(OpenFiles, OneThatHasLostItsNameButNotAll) {
  base::Fd file = open("first", O_RDWR);
  ASSERT_EQ(0, ::link(to("first").c_str(), to("second").c_str()));
  ::unlink(to("first").c_str());
  EXPECT_EQ(std::nullopt, found());
  ::unlink(to("second").c_str());  // now it is in nobody's tree
  EXPECT_EQ(FileSet(), found());
}

}  // namespace
}  // namespace migrate
