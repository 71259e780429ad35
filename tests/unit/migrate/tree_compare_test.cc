#include "migrate/tree_compare.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

namespace migrate {
namespace {

using Change = TreeDifference::Change;

/// A directory of files; what differs between two rounds is set by hand.
class TreeCompare : public testing::Test {
 protected:
  static TreeSnapshot snapshot(const std::vector<std::string>& names) {
    TreeSnapshot made;
    made.names_.push_back('\0');
    made.nodes_.push_back(
        {.ino = 1, .mode = S_IFDIR, .first = 1, .count = static_cast<uint32_t>(names.size())});
    for (const std::string& name : names) {
      made.nodes_.push_back({.ino = 100 + made.size(),
                             .ctime_ns = 5,
                             .size = 10,
                             .mode = S_IFREG,
                             .name_at = static_cast<uint32_t>(made.names_.size()),
                             .name_length = static_cast<uint8_t>(name.size())});
      made.names_ += name + '\0';
    }
    return made;
  }
  TreeSnapshot before_ = snapshot({"a", "b", "c"}), now_ = before_;
};

TEST_F(TreeCompare, EqualTrees) {
  TreeDifference difference = compare_trees(before_, now_, {});
  EXPECT_EQ(std::vector<Change>(4, Change::kNone), difference.change);
  EXPECT_TRUE(difference.removed.empty());
  EXPECT_EQ(0, difference.bytes);
}

TEST_F(TreeCompare, WithoutABefore) {
  EXPECT_EQ(std::vector<Change>(4, Change::kSend), compare_trees({}, now_, {}).change);
}

TEST_F(TreeCompare, EveryFieldCounts) {
  using Node = TreeSnapshot::Node;
  for (uint64_t Node::* field : {&Node::ino, &Node::ctime_ns, &Node::mtime_ns, &Node::size}) {
    TreeSnapshot changed = now_;
    changed.node(2).*field += 1;
    EXPECT_EQ((std::vector{Change::kNone, Change::kNone, Change::kSend, Change::kNone}),
              compare_trees(before_, changed, {}).change);
  }
  now_.node(2).atime_ns += 1;
  EXPECT_EQ(Change::kTimes, compare_trees(before_, now_, {}).change[2]);
  now_.node(2).mode = S_IFIFO;
  EXPECT_EQ(Change::kSend, compare_trees(before_, now_, {}).change[2]);
}

TEST_F(TreeCompare, DirtyFilesAndThoseThatTheCallerNames) {
  before_.node(1).dirty = true;
  EXPECT_EQ((std::vector{Change::kNone, Change::kSend, Change::kNone, Change::kSend}),
            compare_trees(before_, now_, {now_.node(3).ino}).change);
}

TEST_F(TreeCompare, NamesThatAreGone) {
  TreeSnapshot fewer = snapshot({"b"});
  fewer.node(1) = before_.node(2);
  fewer.node(1).name_at = 1;
  EXPECT_EQ((std::vector<uint32_t>{1, 3}), compare_trees(before_, fewer, {}).removed.at(0));
  now_.node(1).absent = true;     // vanished during the scan
  before_.node(2).absent = true;  // the other side never had it
  TreeDifference difference = compare_trees(before_, now_, {});
  EXPECT_EQ((std::vector<uint32_t>{1}), difference.removed.at(0));
  EXPECT_EQ(Change::kSend, difference.change[2]);
}

/// A live scan may see the names of one file before and after a change.
TEST_F(TreeCompare, OneNameOfAFileBringsAll) {
  for (TreeSnapshot* tree : {&before_, &now_})
    for (uint32_t at : {1U, 3U}) {
      tree->node(at).ino = 7;
      tree->node(at).linked = true;
    }
  EXPECT_TRUE(compare_trees(before_, now_, {}).groups.empty());
  now_.node(3).ctime_ns += 1;
  TreeDifference difference = compare_trees(before_, now_, {});
  EXPECT_EQ((std::vector{Change::kNone, Change::kSend, Change::kNone, Change::kSend}), difference.change);
  EXPECT_EQ(difference.group_of.at(1), difference.group_of.at(3));
  EXPECT_EQ(2, difference.groups.at(0).names);
  EXPECT_FALSE(difference.groups.at(0).steady);
  EXPECT_EQ(10, difference.bytes);  // once
}

}  // namespace
}  // namespace migrate
