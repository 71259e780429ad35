#include "image/initrd.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <charconv>
#include <utility>

#include "tests/unit/image/image_samples.h"
#include "tests/unit/image/tree_samples.h"

namespace image {
namespace {

/// An entry of a cpio archive (newc: cpio(5)).
struct Entry {
  std::string name;
  unsigned mode = 0, owner = 0, group = 0, links = 0, time = 0, inode = 0;
  std::string content;
};

using Archive = std::vector<Entry>;

/// The archives behind one another; what is not as it should be fails the test.
std::vector<Archive> archives_of(const std::string& bytes) {
  std::vector<Archive> archives;
  Archive entries;
  for (size_t at = 0; at + 110 <= bytes.size();) {
    auto number = [&](size_t field) {
      unsigned value = 0;
      const char* from = bytes.data() + at + 6 + field * 8;
      EXPECT_EQ(std::from_chars(from, from + 8, value, 16).ptr, from + 8);
      return value;
    };
    EXPECT_EQ(bytes.substr(at, 6), "070701") << "at " << at;
    size_t name = at + 110, content = (name + number(11) + 3) / 4 * 4;
    Entry entry = {.name = bytes.substr(name, number(11) - 1),
                   .mode = number(1),
                   .owner = number(2),
                   .group = number(3),
                   .links = number(4),
                   .time = number(5),
                   .inode = number(0),
                   .content = bytes.substr(content, number(6))};
    EXPECT_EQ(bytes.at(name + number(11) - 1), '\0');
    if (entry.name == "TRAILER!!!") {
      archives.push_back(std::exchange(entries, {}));
      at = std::min(bytes.find_first_not_of('\0', content), bytes.size());
      continue;
    }
    at = (content + number(6) + 3) / 4 * 4;
    entries.push_back(entry);
  }
  EXPECT_TRUE(entries.empty()) << "no trailer";
  return archives;
}

class InitrdTest : public ::testing::Test {
 protected:
  static constexpr const char* kDirectory = "/usr/lib/modules/6.12.1";

  void SetUp() override {
    base::make_directories(work_);
    tree_.put("/usr/lib/drover/drover-init", "the init", 0644);
    module("kernel/lib/z-first.ko.xz", "z first");
    module("kernel/fs/a_second.ko", "a second");
    module("kernel/fs/third.ko.zst", "third");
  }

  /// Compressed as its name says.
  void module(const std::string& file, const std::string& content) {
    std::string path = std::string(kDirectory) + "/" + file, plain = path.substr(0, path.rfind(".ko") + 3);
    tree_.put(plain, content);
    if (file.ends_with(".xz")) here_.runner.run({.argv = {"xz", "--check=crc32", tree_.path() + plain}});
    if (file.ends_with(".zst")) here_.runner.run({.argv = {"zstd", "--quiet", "--rm", tree_.path() + plain}});
  }

  void make() {
    Initrd(here_.context,
           {.root = tree_.path(),
            .init = tree_.path() + "/usr/lib/drover/drover-init",
            .module_directory = kDirectory,
            .modules = modules_,
            .firmware = firmware_},
           work_)
        .finish(file_);
  }
  std::vector<Archive> read() {
    return archives_of(
        here_.runner.run({.argv = {"xz", "--decompress", "--stdout", "--format=xz", file_}}).out);
  }
  std::map<std::string, Entry> read_all() {
    std::map<std::string, Entry> by_name;
    for (const Archive& archive : read())
      for (const Entry& entry : archive) {
        EXPECT_TRUE(by_name.emplace(entry.name, entry).second) << entry.name << " twice";
        std::string parent = std::filesystem::path(entry.name).parent_path();
        EXPECT_TRUE(parent.empty() || by_name.contains(parent)) << entry.name << " before its directory";
        EXPECT_TRUE(entry.owner == 0 && entry.group == 0 && entry.time == 0) << entry.name;
      }
    return by_name;
  }

  TestContext here_;
  SampleTree tree_;
  std::vector<std::string> modules_ = {"kernel/lib/z-first.ko.xz", "kernel/fs/a_second.ko",
                                       "kernel/fs/third.ko.zst"};
  std::vector<std::string> firmware_;
  std::string work_ = tree_.path() + "-work", file_ = work_ + "/done";
};

TEST_F(InitrdTest, HoldsInitAndModulesUnpacked) {
  make();
  std::map<std::string, Entry> by_name = read_all();
  auto expect_file = [&](const std::string& name, unsigned mode, const std::string& content) {
    ASSERT_TRUE(by_name.contains(name)) << name;
    EXPECT_EQ(by_name[name].mode, S_IFREG | mode) << name;
    EXPECT_EQ(by_name[name].content, content) << name;
    EXPECT_EQ(by_name[name].links, 1u);
  };
  expect_file("init", 0755, "the init");
  expect_file("usr/lib/modules/6.12.1/kernel/lib/z-first.ko", 0644, "z first");
  expect_file("usr/lib/modules/6.12.1/kernel/fs/a_second.ko", 0644, "a second");
  expect_file("usr/lib/modules/6.12.1/kernel/fs/third.ko", 0644, "third");
  for (const char* name :
       {"dev", "proc", "run", "sys", "sysroot", "tmp", "lib", "usr", "usr/lib/modules/6.12.1/kernel"}) {
    ASSERT_TRUE(by_name.contains(name)) << name;
    EXPECT_EQ(by_name[name].mode, S_IFDIR | 0755u) << name;
    EXPECT_EQ(by_name[name].content, "");
  }
}

TEST_F(InitrdTest, ListsModulesInLoadOrder) {
  make();
  for (const Archive& archive : read()) {
    std::set<unsigned> inodes;
    for (const Entry& entry : archive)
      EXPECT_TRUE(inodes.insert(entry.inode).second) << "two names of one file";
  }
  EXPECT_EQ(read_all()["lib/drover-modules"].content,
            "/usr/lib/modules/6.12.1/kernel/lib/z-first.ko\n/usr/lib/modules/6.12.1/kernel/fs/a_second.ko\n"
            "/usr/lib/modules/6.12.1/kernel/fs/third.ko\n");
}

/// Where the kernel looks for it: the initrd has no link from /lib to /usr/lib.
TEST_F(InitrdTest, HoldsFirmwareWhereTheKernelLooks) {
  tree_.put("/usr/lib/firmware/x/qed.bin", "firmware of qed");
  std::filesystem::create_symlink("qed.bin", tree_.path() + "/usr/lib/firmware/x/old.bin");
  firmware_ = {"/usr/lib/firmware/x/old.bin", "/usr/lib/firmware/x/qed.bin"};
  make();
  std::map<std::string, Entry> by_name = read_all();
  EXPECT_EQ(by_name["lib/firmware/x/qed.bin"].content, "firmware of qed");
  EXPECT_EQ(by_name["lib/firmware/x/old.bin"].mode, S_IFLNK | 0777u);
  EXPECT_EQ(by_name["lib/firmware/x/old.bin"].content, "qed.bin");
}

/// So a delta from one drover to the next is small.
TEST_F(InitrdTest, AnotherInitChangesTheLastArchiveOnly) {
  make();
  std::string old = base::read_file(file_);
  size_t last = old.rfind(
      "\xfd"
      "7zXZ");
  ASSERT_NE(last, 0u);
  EXPECT_EQ(read().size(), 2u);
  tree_.put("/usr/lib/drover/drover-init", "another init", 0644);
  make();
  std::string changed = base::read_file(file_);
  EXPECT_EQ(changed.substr(0, last), old.substr(0, last));
  EXPECT_NE(changed, old);
}

/// The kernel's own xz knows CRC32 and no other check (lib/xz, and xz-file-format.txt 1.1.0, 2.1.1.2).
TEST_F(InitrdTest, IsCompressedForTheKernel) {
  make();
  std::string bytes = base::read_file(file_);
  EXPECT_EQ(bytes.substr(0, 8), std::string("\xfd"
                                            "7zXZ\0\0\x01",
                                            8));
}

TEST_F(InitrdTest, IsTheSameFromTheSameParts) {
  make();
  std::string first = base::read_file(file_);
  std::filesystem::last_write_time(tree_.path() + "/usr/lib/drover/drover-init",
                                   std::filesystem::file_time_type::clock::now() - std::chrono::hours(1000));
  make();
  EXPECT_EQ(base::read_file(file_), first);
  std::swap(modules_[0], modules_[1]);
  make();
  EXPECT_NE(base::read_file(file_), first) << "the load order is a part of it";
}

TEST_F(InitrdTest, AModuleThatIsNotThereOrDamagedIsAnError) {
  modules_.push_back("kernel/gone.ko.xz");
  EXPECT_TRUE(thrown([&] { make(); }).contains("kernel/gone.ko.xz"));
  tree_.put(std::string(kDirectory) + "/kernel/gone.ko.xz", "this is no xz");
  EXPECT_NE(thrown([&] { make(); }), "");
  modules_.back() = "kernel/gone.ko";
  EXPECT_TRUE(thrown([&] { make(); }).contains("kernel/gone.ko"));
  EXPECT_FALSE(base::exists(file_));
}

}  // namespace
}  // namespace image
