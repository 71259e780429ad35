#include "base/user_namespace.h"

#include <gtest/gtest.h>

#include <format>

namespace base {
namespace {

constexpr std::string_view kText =
    "# a comment\n"
    "alice:100000:65536\n"
    "bob:165536:1000\n"
    "broken:x:1\n"
    "bob:300000:65536\n"
    "short:5\n"
    "1003:400000:65536\n";

std::string range_of(std::string_view name, uid_t uid, uint64_t least = 65536) {
  auto range = find_id_range(kText, name, uid, least);
  return range ? std::format("{}+{}", range->first, range->count) : "none";
}

TEST(UserNamespace, ARangeIsTheUsersAndLargeEnough) {
  EXPECT_EQ(range_of("alice", 1000), "100000+65536");
  EXPECT_EQ(range_of("bob", 1001), "300000+65536");
  EXPECT_EQ(range_of("bob", 1001, 1000), "165536+1000");
  EXPECT_EQ(range_of("carol", 1003), "400000+65536") << "by number";
  EXPECT_EQ(range_of("carol", 1004), "none");
  EXPECT_EQ(range_of("ali", 1005), "none");
  EXPECT_EQ(range_of("broken", 1006, 0), "none");
  EXPECT_EQ(range_of("alice", 1000, 65537), "none");
}

TEST(UserNamespace, FreeIdsAreBehindAllOthers) {
  EXPECT_EQ(free_ids_begin(kText), 465536U);
  EXPECT_EQ(free_ids_begin(""), 100000U);
  EXPECT_EQ(free_ids_begin("low:1000:5\n"), 100000U);
}

}  // namespace
}  // namespace base
