#include <sys/mman.h>

#include "tests/unit/base/namespace.h"
#include "tests/unit/migrate/tree_tools.h"

namespace migrate {
namespace {

/// A box's root as box/ mounts it; its upper directory is what travels.
class TreeOverlay : public TreeTest {
 protected:
  void SetUp() override {
    TreeTest::SetUp();
    if (IsSkipped()) return;
    base::enter_mount_namespace();
    for (const char* name : {"lower", "lower/dir", "lower/dir/sub", "lower/kept", "box", "moved"})
      base::make_directories(in(name));
    for (const char* name :
         {"lower/file", "lower/gone", "lower/dir/a", "lower/dir/sub/b", "lower/kept/c", "lower/mapped"})
      base::write_file(in(name), std::string("of the template: ") + name + std::string(10'000, '.'));
    ::sync();
  }
  [[nodiscard]] std::string in(const std::string& name) const { return directory_.path() + "/" + name; }
  [[nodiscard]] std::string box(const std::string& name) const { return in("box/") + name; }
  [[nodiscard]] base::Mount mount(const std::string& upper, const std::string& target) const {
    base::make_directories(in("work-" + target));
    return base::Mount::make("overlay", in(target), "overlay", 0,
                             std::format("lowerdir={},upperdir={},workdir={},xino=on,index=on,nfs_export=on",
                                         in("lower"), in(upper), in("work-" + target)));
  }
};

TEST_F(TreeOverlay, AMovedBoxSeesWhatItSawBefore) {
  base::Mount source = mount("from", "box");
  base::write_file(box("new"), "the box's own");
  ASSERT_EQ(0, ::unlink(box("gone").c_str()));
  base::remove_tree(box("dir"));
  round();
  base::make_directories(box("dir"));  // opaque: what the template has in it stays hidden
  base::write_file(box("dir/other"), "");
  ASSERT_EQ(0, ::chmod(box("kept/c").c_str(), 0640));
  ASSERT_EQ(0, ::link(box("file").c_str(), box("kept/second").c_str()));
  base::Fd mapped = base::open(box("mapped"), O_RDWR);
  auto* bytes =
      static_cast<char*>(::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, mapped.get(), 0));
  ASSERT_NE(MAP_FAILED, bytes);
  for (int i = 0; i < 3; ++i) {
    bytes[i] = '#';
    round();
  }
  bytes[100] = '#';
  base::write_full(base::open(box("kept/second"), O_WRONLY | O_APPEND).get(), std::string_view("more"),
                   "second");
  final_round();
  auto want = dump_tree(in("box"));
  EXPECT_FALSE(want.contains("/gone"));
  EXPECT_FALSE(want.contains("/dir/a"));
  base::Mount moved = mount("to", "moved");
  EXPECT_EQ("", difference(want, dump_tree(in("moved"))));
  ::munmap(bytes, 4096);
}

TEST_F(TreeOverlay, AFileOfSeveralNamesInTheTemplateDoesNotTearApart) {
  ASSERT_EQ(0, ::link(in("lower/file").c_str(), in("lower/kept/second").c_str()));
  base::Mount source = mount("from", "box");
  base::write_full(base::open(box("file"), O_WRONLY | O_APPEND).get(), std::string_view("more"), "file");
  EXPECT_EQ(
      "/file has further names in its template, which would no longer be the same file on the other node",
      error_of([&] { final_round(); }));
  // Once the box has written to it by all its names, nothing of it is left in the template.
  ASSERT_EQ(0, ::chmod(box("kept/second").c_str(), 0600));
  base::remove_tree(to());
  base::make_directories(to());
  final_round();
  base::Mount moved = mount("to", "moved");
  EXPECT_EQ("", difference(dump_tree(in("box")), dump_tree(in("moved"))));
}

}  // namespace
}  // namespace migrate
