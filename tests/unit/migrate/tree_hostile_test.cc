#include <sys/xattr.h>

#include <filesystem>
#include <string>
#include <vector>

#include "migrate/tree_format.h"
#include "tests/unit/base/namespace.h"
#include "tests/unit/migrate/tree_tools.h"

namespace migrate {
namespace {

/// Streams byte by byte, as docs/formats/move-wire.md has them and as it forbids them.
struct Bytes {
  std::string text;
  template <class Number>
  Bytes& number(Number value) {
    for (size_t i = 0; i < sizeof value; ++i)
      text += static_cast<char>(static_cast<uint64_t>(value) >> (8 * i));
    return *this;
  }
  Bytes& u8(unsigned value) { return number(static_cast<uint8_t>(value)); }
  Bytes& tag(Tag tag) { return u8(static_cast<unsigned>(tag)); }
  Bytes& raw(std::string_view bytes) {
    text += bytes;
    return *this;
  }
  Bytes& name(std::string_view name) { return u8(static_cast<unsigned>(name.size())).raw(name); }
  Bytes& times(uint32_t nanoseconds = 5) {
    return number(int64_t{1}).number(nanoseconds).number(int64_t{2}).number(nanoseconds);
  }
  Bytes& metadata(uint32_t mode = 0600, uint32_t uid = 0, uint32_t gid = 0) {
    return number(mode).number(uid).number(gid).times().u8(0);
  }
  Bytes& enter(std::string_view directory, unsigned flags = kFresh) {
    return tag(Tag::kEnter).name(directory).u8(flags);
  }
  Bytes& leave() { return tag(Tag::kLeave).metadata(0700); }
  Bytes& file(std::string_view file_name, uint32_t link_id = 0, uint64_t size = 0) {
    return tag(Tag::kFile).name(file_name).number(link_id).number(size);
  }
  Bytes& extent(uint64_t offset, std::string_view data) {
    return number(static_cast<uint32_t>(data.size())).number(offset).raw(data);
  }
  Bytes& whole_file(std::string_view file_name, uint32_t link_id = 0) {
    return file(file_name, link_id).number(uint32_t{0}).metadata();
  }
  Bytes& link(std::string_view link_name, uint32_t id) { return tag(Tag::kLink).name(link_name).number(id); }
  Bytes& symlink(std::string_view link_name, std::string_view target) {
    return tag(Tag::kSymlink)
        .name(link_name)
        .number(uint32_t{0})
        .number(static_cast<uint16_t>(target.size()))
        .raw(target);
  }
  Bytes& xattr(std::string_view key, std::string_view value) {
    return name(key).number(static_cast<uint32_t>(value.size())).raw(value);
  }
};

Bytes tree(unsigned flags = kRoundZero) { return Bytes().raw(kTreeMagic).u8(flags); }
/// A file up to its extended attributes.
Bytes open_file(unsigned flags = kRoundZero) {
  return tree(flags)
      .file("file")
      .number(uint32_t{0})
      .number(uint32_t{0600})
      .number(uint32_t{0})
      .number(uint32_t{0})
      .times();
}

class TreeHostile : public TreeTest {
 protected:
  /// Receives into an empty tree, or into what is there; what lies around it must stay as it is.
  std::string refusal(const Bytes& bytes, bool keep = false) {
    if (!keep) {
      base::remove_tree(to());
      base::make_directories(to());
    }
    base::write_file(directory_.path() + "/outside", "untouched");
    auto before = around();
    base::Fd destination = base::open(to(), O_RDONLY | O_DIRECTORY);
    MemoryStream stream(bytes.text);
    std::string said = error_of([&] { receive_tree(destination.get(), stream); });
    EXPECT_EQ("", difference(before, around()));
    constexpr std::string_view kPrefix = "the other node sent a tree that cannot be right: ";
    return said.starts_with(kPrefix) ? said.substr(kPrefix.size()) : "! " + said;
  }

 private:
  [[nodiscard]] std::map<std::string, std::string> around() const {
    return dump_tree(directory_.path(), "/to");
  }
};

TEST_F(TreeHostile, ARightOneIsTaken) {
  EXPECT_EQ("! no error", refusal(tree().tag(Tag::kEnd)));
  EXPECT_EQ("! no error", refusal(tree()
                                      .enter("d")
                                      .file("f", 1, 7)
                                      .extent(1, "ab")
                                      .extent(4, "c")
                                      .number(uint32_t{0})
                                      .metadata()
                                      .leave()
                                      .link("l", 1)
                                      .symlink("s", "/t")
                                      .metadata()
                                      .leave()
                                      .tag(Tag::kEnd)));
  EXPECT_EQ(std::string("\0ab\0c\0\0", 7), base::read_file(to("l")));
}

TEST_F(TreeHostile, Beginnings) {
  EXPECT_EQ("it does not begin as one", refusal(Bytes().raw("DRVTREE0").u8(0)));
  EXPECT_EQ("its flags are 2", refusal(tree(2)));
  EXPECT_EQ("there is no record 0", refusal(tree().u8(0)));
  EXPECT_EQ("there is no record 12", refusal(tree().u8(12)));
}

TEST_F(TreeHostile, Names) {
  base::write_file(directory_.path() + "/outside", "untouched");
  for (std::string_view name :
       {std::string_view(""), std::string_view("."), std::string_view(".."), std::string_view("../outside"),
        std::string_view("/etc"), std::string_view("a/b"), std::string_view("a\0b", 3)}) {
    for (Tag tag :
         {Tag::kEnter, Tag::kFile, Tag::kSymlink, Tag::kNode, Tag::kLink, Tag::kRemove, Tag::kTimes}) {
      std::string said = refusal(tree().tag(tag).name(name).raw(std::string(100, '\1')));
      EXPECT_TRUE(said.ends_with("\" is no name of a file")) << said;
    }
  }
}

TEST_F(TreeHostile, SymlinksAreNeverFollowed) {
  auto made = [] {
    return tree()
        .symlink("up", "..")
        .metadata()
        .symlink("abs", "/")
        .metadata()
        .symlink("file", "../outside")
        .metadata();
  };
  EXPECT_EQ("it goes on in the directory /up, and there is none", refusal(made().enter("up", 0)));
  EXPECT_EQ("it goes on in the directory /abs, and there is none", refusal(made().enter("abs", 0)));
  // Replaced, removed, touched: the symlink itself, never what it points to.
  EXPECT_EQ("! no error", refusal(made()
                                      .whole_file("file")
                                      .tag(Tag::kRemove)
                                      .name("up")
                                      .tag(Tag::kTimes)
                                      .name("abs")
                                      .times()
                                      .tag(Tag::kEnd)));
  EXPECT_EQ("! no error", refusal(made().enter("up").whole_file("x").leave().tag(Tag::kEnd)));
  // The way to a link's target has become a symlink meanwhile.
  EXPECT_EQ(
      "a link refers to a file in d, which is gone",
      refusal(tree().enter("d").whole_file("outside", 1).leave().symlink("d", "..").metadata().link("l", 1)));
  EXPECT_EQ(
      "! no error",
      refusal(tree().whole_file("f", 1).symlink("f", "../outside").metadata().link("l", 1).tag(Tag::kEnd)));
  struct stat status;
  ASSERT_EQ(0, ::lstat(to("l").c_str(), &status));
  EXPECT_TRUE(S_ISLNK(status.st_mode));
}

TEST_F(TreeHostile, MountsAreNotEntered) {
  base::enter_mount_namespace();
  base::make_directories(to("mounted"));
  base::Mount mount = base::Mount::bind(from(), to("mounted"));
  EXPECT_EQ("it goes on in the directory /mounted, and there is none",
            refusal(tree(0).enter("mounted", 0), true));
  EXPECT_EQ("! cannot remove /mounted: Device or resource busy",
            refusal(tree(0).tag(Tag::kRemove).name("mounted"), true));
}

TEST_F(TreeHostile, Directories) {
  EXPECT_EQ("it goes on in the directory /d, and there is none", refusal(tree().enter("d", 0)));
  EXPECT_EQ("it goes on in the directory /f, and there is none",
            refusal(tree().whole_file("f").enter("f", 0)));
  EXPECT_EQ("the directory /d has flags 2", refusal(tree().enter("d", 2)));
  EXPECT_EQ("it ends inside /d", refusal(tree().enter("d").tag(Tag::kEnd)));
  EXPECT_EQ("there are records behind the root's end", refusal(tree().leave().leave()));
  EXPECT_EQ("there are records behind the root's end", refusal(tree().leave().whole_file("f")));
  Bytes deep = tree();
  for (unsigned i = 0; i <= kMaxTreeDepth; ++i) deep.enter("d");
  EXPECT_EQ("it is nested deeper than 2048 directories", refusal(deep));
}

TEST_F(TreeHostile, Content) {
  EXPECT_EQ("/f has 9223372036854775808 bytes", refusal(tree().file("f", 0, uint64_t{1} << 63)));
  EXPECT_EQ("/f of 5 bytes has 6 bytes at 0, after 0", refusal(tree().file("f", 0, 5).extent(0, "123456")));
  EXPECT_EQ("/f of 5 bytes has 1 bytes at 5, after 0", refusal(tree().file("f", 0, 5).extent(5, "1")));
  EXPECT_EQ("/f of 5 bytes has 1 bytes at 18446744073709551615, after 0",
            refusal(tree().file("f", 0, 5).extent(UINT64_MAX, "1")));
  EXPECT_EQ("/f of 5 bytes has 2 bytes at 1, after 2",
            refusal(tree().file("f", 0, 5).extent(0, "12").extent(1, "34")));
  EXPECT_EQ("/f of 9000000 bytes has 1048577 bytes at 0, after 0",
            refusal(tree().file("f", 0, 9'000'000).number(uint32_t{kMaxExtent + 1}).number(uint64_t{0})));
  EXPECT_EQ("! cannot write /f: File too large",
            refusal(tree().file("f", 0, INT64_MAX).number(uint32_t{0}).metadata()));
}

TEST_F(TreeHostile, Renames) {
  using Path = std::vector<std::string>;
  auto rename = [](Bytes before, const Path& from, const Path& to) {
    before.tag(Tag::kRename);
    for (const Path& path : {from, to}) {
      before.number(static_cast<uint16_t>(path.size()));
      for (const std::string& name : path) before.name(name);
    }
    return before;
  };
  auto refused = [&](const Path& from, const Path& to) {
    base::remove_tree(this->to());
    for (const char* directory : {"/d/e", "/full"}) base::make_directories(this->to() + directory);
    for (const char* file : {"f", "d/e/f", "full/f"}) base::write_file(this->to(file), "content");
    std::filesystem::create_hard_link(this->to("f"), this->to("linked"));
    std::filesystem::create_symlink("/etc/passwd", this->to("s"));
    std::filesystem::create_symlink("..", this->to("up"));
    return refusal(rename(tree(0), from, to).tag(Tag::kEnd), true);
  };
  EXPECT_EQ("! no error", refused({"d", "e", "f"}, {"d", "g"}));
  EXPECT_EQ("content", base::read_file(to("d/g")));
  EXPECT_EQ("! no error", refused({"full", "f"}, {"linked"}));

  // Only a regular file of one name moves, and only to where no directory is.
  for (const Path& from : {Path{"s"}, {"linked"}, {"f"}, {"d"}, {"none"}, {"d", "e"}})
    EXPECT_EQ("it renames " + from.back() + ", and there is no such file with one name",
              refused(from, {"g"}));
  EXPECT_EQ("! cannot write full: Is a directory", refused({"d", "e", "f"}, {"full"}));
  // A path leads through directories of the tree.
  for (const char* name : {"up", "s", "f", "none"}) {
    const std::string sentence =
        std::string("it renames a file in ") + name + ", and there is no such directory";
    EXPECT_EQ(sentence, refused({name, "outside"}, {"g"}));
    EXPECT_EQ(sentence, refused({"d", "e", "f"}, {name, "g"}));
  }
  EXPECT_EQ("\"..\" is no name of a file", refused({"d", "..", "f"}, {"g"}));
  EXPECT_EQ("a path has 0 names", refused({}, {"g"}));
  EXPECT_EQ("a path has 2050 names", refused(Path(2050, "d"), {"g"}));
  EXPECT_EQ("it renames a file behind other records",
            refusal(rename(tree().whole_file("f"), {"f"}, {"g"}).tag(Tag::kEnd)));
}

TEST_F(TreeHostile, Patches) {
  auto patch = [](Bytes before, std::string_view name, uint64_t size) {
    return before.tag(Tag::kPatch).name(name).number(size);
  };
  auto file = [&](uint64_t size) { return patch(tree().whole_file("f"), "f", size); };
  auto hole = [](Bytes bytes, uint64_t length, uint64_t offset) {
    return bytes.u8(2).number(length).number(offset);
  };
  EXPECT_EQ("! no error", refusal(file(7)
                                      .u8(1)
                                      .extent(1, "ab")
                                      .u8(2)
                                      .number(uint64_t{2})
                                      .number(uint64_t{3})
                                      .u8(0)
                                      .metadata()
                                      .tag(Tag::kEnd)));
  EXPECT_EQ(std::string("\0ab\0\0\0\0", 7), base::read_file(to("f")));

  // Nothing but a regular file of one name is written into.
  Bytes nodes = tree()
                    .symlink("s", "../outside")
                    .metadata()
                    .tag(Tag::kNode)
                    .name("pipe")
                    .number(uint32_t{0})
                    .u8(1)
                    .metadata()
                    .tag(Tag::kNode)
                    .name("whiteout")
                    .number(uint32_t{0})
                    .u8(3)
                    .metadata()
                    .enter("d")
                    .leave();
  for (std::string_view name : {"none", "s", "pipe", "whiteout", "d"})
    EXPECT_EQ("it has a part of /" + std::string(name) + ", and there is no such file",
              refusal(patch(nodes, name, 1)));
  EXPECT_EQ("it has a part of /f, which has other names",
            refusal(patch(tree().whole_file("f", 1).link("l", 1), "f", 1)));
  EXPECT_EQ("\"../outside\" is no name of a file", refusal(patch(tree(), "../outside", 1)));

  EXPECT_EQ("/f has 9223372036854775808 bytes", refusal(file(uint64_t{1} << 63)));
  EXPECT_EQ("! cannot write /f: File too large", refusal(file(INT64_MAX)));
  EXPECT_EQ("/f has a piece of kind 3", refusal(file(5).u8(3)));
  EXPECT_EQ("/f of 5 bytes has 6 bytes at 0, after 0", refusal(file(5).u8(1).extent(0, "123456")));
  EXPECT_EQ("/f of 5 bytes has 0 bytes at 1, after 0", refusal(file(5).u8(1).extent(1, "")));
  EXPECT_EQ("/f of 5 bytes has 1 bytes at 0, after 2",
            refusal(file(5).u8(1).extent(0, "12").u8(1).extent(0, "3")));
  EXPECT_EQ("/f of 9000000 bytes has 1048577 bytes at 0, after 0",
            refusal(file(9'000'000).u8(1).number(uint32_t{kMaxExtent + 1}).number(uint64_t{0})));
  EXPECT_EQ("/f of 5 bytes has 0 bytes at 0, after 0", refusal(hole(file(5), 0, 0)));
  EXPECT_EQ("/f of 5 bytes has 6 bytes at 0, after 0", refusal(hole(file(5), 6, 0)));
  EXPECT_EQ("/f of 5 bytes has 18446744073709551615 bytes at 4, after 0",
            refusal(hole(file(5), UINT64_MAX, 4)));
  EXPECT_EQ("/f of 5 bytes has 1 bytes at 18446744073709551615, after 0",
            refusal(hole(file(5), 1, UINT64_MAX)));
  EXPECT_EQ("/f of 5 bytes has 1 bytes at 1, after 2", refusal(hole(file(5).u8(1).extent(0, "12"), 1, 1)));
}

TEST_F(TreeHostile, Metadata) {
  auto file = [] { return tree().file("f").number(uint32_t{0}); };
  EXPECT_EQ("/f has mode 10000", refusal(file().metadata(010000)));
  EXPECT_EQ("/f has the owner 4294967295:0", refusal(file().metadata(0600, UINT32_MAX)));
  EXPECT_EQ("/f has the owner 0:4294967295", refusal(file().metadata(0600, 0, UINT32_MAX)));
  EXPECT_EQ(
      "a time has 1000000000 nanoseconds",
      refusal(file().number(uint32_t{0600}).number(uint32_t{0}).number(uint32_t{0}).times(1'000'000'000)));
  // UTIME_NOW and UTIME_OMIT would be taken for commands.
  EXPECT_EQ("a time has 1073741823 nanoseconds", refusal(tree().tag(Tag::kTimes).name("f").times(UTIME_NOW)));
  EXPECT_EQ("a time has 1073741822 nanoseconds",
            refusal(tree().tag(Tag::kTimes).name("f").times(UTIME_OMIT)));
  EXPECT_EQ("it has new times for /f, and there is no such file",
            refusal(tree().tag(Tag::kTimes).name("f").times()));
}

TEST_F(TreeHostile, ExtendedAttributes) {
  for (std::string_view name :
       {"system.other", "system.posix_acl_accessX", "btrfs.x", "nonsense", "user.", "trusted.", "security.",
        "trusted.overlay.origin", "trusted.overlay.upper", "trusted.overlay.metacopy", "trusted.overlay."})
    EXPECT_EQ("the extended attribute " + std::string(name) + " at /file does not travel",
              refusal(open_file().xattr(name, "x")));
  EXPECT_EQ("the extended attribute user.a\\x00b at /file does not travel",
            refusal(open_file().xattr(std::string_view("user.a\0b", 8), "x")));
  EXPECT_EQ("an extended attribute of /file has 65537 bytes",
            refusal(open_file().name("user.big").number(uint32_t{65537})));
  for (std::string_view redirect : {"", "/", "//", "..", "a/b", "/a/../b", "/..", "/a//b", "/a/"})
    EXPECT_EQ("/file is redirected to " + std::string(redirect),
              refusal(open_file().xattr("trusted.overlay.redirect", redirect)));
  EXPECT_EQ("! no error",
            refusal(open_file().xattr("trusted.overlay.redirect", "/a/b").u8(0).tag(Tag::kEnd)));
  EXPECT_EQ("! cannot set the extended attribute system.posix_acl_access of /file: Operation not supported",
            refusal(open_file().xattr("system.posix_acl_access", "no list")));

  base::enter_mount_namespace();  // tmpfs has room for as many as there may be
  base::make_directories(to());
  base::Mount mount = base::Mount::make("tmpfs", to(), "tmpfs", 0);
  Bytes many = open_file(0);
  for (int i = 0; i < 300; ++i) many.xattr(std::format("trusted.{:0>240}", i), "");
  EXPECT_EQ("/file has more extended attributes than a file can have", refusal(many, true));
}

TEST_F(TreeHostile, Nodes) {
  auto node = [](unsigned kind) { return tree().tag(Tag::kNode).name("n").number(uint32_t{0}).u8(kind); };
  EXPECT_EQ("/n is a node of kind 0", refusal(node(0)));
  EXPECT_EQ("/n is a node of kind 4", refusal(node(4)));
  EXPECT_EQ("! no error", refusal(node(3).metadata(0).tag(Tag::kEnd)));
  struct stat status;
  ASSERT_EQ(0, ::lstat(to("n").c_str(), &status));
  EXPECT_EQ(0, status.st_rdev);
}

TEST_F(TreeHostile, Symlinks) {
  EXPECT_EQ("the symlink /s has 0 bytes", refusal(tree().symlink("s", "")));
  EXPECT_EQ("the symlink /s has 4096 bytes", refusal(tree().symlink("s", std::string(4096, 'x'))));
  EXPECT_EQ("the symlink /s has a NUL in it", refusal(tree().symlink("s", std::string_view("a\0b", 3))));
}

TEST_F(TreeHostile, Links) {
  EXPECT_EQ("a link refers to 1, and there are 0", refusal(tree().link("l", 1)));
  EXPECT_EQ("a link refers to 0, and there are 0", refusal(tree().link("l", 0)));
  EXPECT_EQ("a link refers to 2, and there are 1", refusal(tree().whole_file("f", 1).link("l", 2)));
  EXPECT_EQ("the link id 2 comes after 0", refusal(tree().whole_file("f", 2)));
  EXPECT_EQ("the link id 1 comes after 1", refusal(tree().whole_file("f", 1).whole_file("g", 1)));
  EXPECT_EQ("! cannot write /l: No such file or directory",
            refusal(tree().whole_file("f", 1).tag(Tag::kRemove).name("f").link("l", 1)));
  EXPECT_EQ("! cannot write /f: No such file or directory", refusal(tree().whole_file("f", 1).link("f", 1)));
  EXPECT_EQ("! cannot write /l: Operation not permitted",
            refusal(tree().whole_file("f", 1).enter("f").leave().link("l", 1)));
  // The id of an earlier round means nothing.
  EXPECT_EQ("a link refers to 1, and there are 0", refusal(tree(0).link("l", 1)));
}

TEST_F(TreeHostile, TheFuzzersCorpusIsRight) {
  std::string corpus = "tests/fuzz/corpus/migrate_tree";
  for (const auto& entry : std::filesystem::directory_iterator(corpus)) {
    base::remove_tree(to());
    base::make_directories(to());
    Bytes bytes{base::read_file(entry.path())};
    if (bytes.text[kTreeMagic.size()] != kRoundZero) {
      base::make_directories(to("directory"));
      base::write_file(to("directory/file"), "content");
    }
    EXPECT_EQ("! no error", refusal(bytes, true)) << entry.path();
  }
}

TEST_F(TreeHostile, AStreamMayEndAnywhere) {
  ::mkdir(from("dir").c_str(), 0700);
  write("dir/file", "some text");
  ASSERT_EQ(0, ::link(from("dir/file").c_str(), from("name").c_str()));
  ASSERT_EQ(0, ::symlink("target", from("symlink").c_str()));
  ASSERT_EQ(0, ::mkfifo(from("pipe").c_str(), 0600));
  ASSERT_EQ(0, ::setxattr(from("dir").c_str(), "user.a", "value", 5, 0));
  MemoryStream whole;
  base::Fd source = base::open(from(), O_RDONLY);
  send_tree(source.get(), whole, last_);
  ASSERT_GT(whole.bytes.size(), 200);
  for (size_t length = 0; length < whole.bytes.size(); ++length)
    EXPECT_EQ("! the stream ends here", refusal(Bytes{whole.bytes.substr(0, length)})) << length;
  EXPECT_EQ("! no error", refusal(Bytes{whole.bytes}));
  EXPECT_EQ("", trees_differ());
}

}  // namespace
}  // namespace migrate
