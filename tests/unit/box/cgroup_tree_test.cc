#include "box/cgroup_tree.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "box/config.h"

namespace box {
namespace {

using nlohmann::json;

std::string thrown(const std::string& text) {
  try {
    CgroupTree::parse(text);
  } catch (const base::Error& error) {
    return error.message();
  }
  return "";
}

json sample() {
  const json own = {{"path", ""},
                    {"mode", 0755},
                    {"owner", {0, 0}},
                    {"files", json::object()},
                    {"values", {{"cgroup.subtree_control", "memory pids"}}},
                    {"xattrs", json::object()},
                    {"pids", json::array()}};
  json user = own;
  user["path"] = "user.slice/a%20b%ff";
  user["owner"] = {1000, 1000};
  user["files"] = {{"cgroup.procs", {1000, 1000}}};
  user["values"] = {{"pids.max", "100"}};
  user["xattrs"] = {{"user.delegate", "1"}};
  user["pids"] = {1, 42};
  return {{"groups", {own, user}}};
}

TEST(CgroupTree, IsTheSameAfterTheWay) {
  const CgroupTree tree = CgroupTree::parse(sample().dump());
  ASSERT_EQ(tree.groups().size(), 2u);
  const auto& user = tree.groups()[1];
  EXPECT_EQ(user.path, "user.slice/a b\xff");
  EXPECT_EQ(user.mode, 0755u);
  EXPECT_EQ(user.owner, (CgroupTree::Owner{1000, 1000}));
  EXPECT_EQ(user.files.at("cgroup.procs").uid, 1000u);
  EXPECT_EQ(user.values.at("pids.max"), "100");
  EXPECT_EQ(user.xattrs.at("user.delegate"), "1");
  EXPECT_EQ(user.pids, (std::vector<pid_t>{1, 42}));
  EXPECT_EQ(CgroupTree::parse(tree.render()).groups(), tree.groups());
}

TEST(CgroupTree, NothingInItIsTrusted) {
  const std::tuple<const char*, json, const char*> cases[] = {
      {"/groups", json::array(), "does not begin with its own"},
      {"/groups/0/path", "x", "does not begin with its own"},
      {"/groups", 7, "lacks something"},
      {"/groups/1/path", "..", "a path that is none"},
      {"/groups/1/path", "a/../../b", "a path that is none"},
      {"/groups/1/path", "/a", "a path that is none"},
      {"/groups/1/path", "a//b", "a path that is none"},
      {"/groups/1/path", "a/", "a path that is none"},
      {"/groups/1/path", "a%0ab", "a path that is none"},
      {"/groups/1/path", "a%2e%2", "a name that is no name"},
      {"/groups/1/path", "%2e%2e/x", "a path that is none"},
      {"/groups/1/path", std::string(300, 'x'), "a path that is none"},
      {"/groups/1/owner", {65536, 0}, "an id that no box has"},
      {"/groups/1/owner", {0}, "lacks something"},
      {"/groups/1/files", {{"cgroup.procs", {0, 70000}}}, "an id that no box has"},
      {"/groups/1/files", {{"../cgroup.procs", {0, 0}}}, "have a file"},
      {"/groups/1/values", {{"../memory.max", "1"}}, "which is nothing of theirs"},
      {"/groups/1/values", {{"cgroup.kill", "1"}}, "which is nothing of theirs"},
      {"/groups/1/xattrs", {{"trusted.overlay.opaque", "y"}}, "have an attribute"},
      {"/groups/1/pids", {"1"}, "lacks something"},
      {"/groups/1/mode", "0755", "lacks something"},
  };
  for (const auto& [pointer, value, says] : cases) {
    json changed = sample();
    changed[json::json_pointer(pointer)] = value;
    EXPECT_TRUE(thrown(changed.dump()).contains(says)) << pointer << " = " << value << "\n"
                                                       << thrown(changed.dump());
  }
  for (const char* text : {"", "{", "[]", "null", "\xff"}) EXPECT_FALSE(thrown(text).empty()) << text;
  EXPECT_EQ(thrown(sample().dump()), "");
}

TEST(Config, ControlGroupsAreOfTheBoxesThatDivideThem) {
  json document = {{"name", "web1"},
                   {"uuid", std::string(32, 'a')},
                   {"template", "shell@2026010101"},
                   {"layers", {{{"digest", "sha256:" + std::string(64, 'a')}, {"bytes", 4096}}}},
                   {"start",
                    {{"init", {"/sbin/init"}},
                     {"env", json::object()},
                     {"working_dir", "/"},
                     {"stop_signal", "SIGTERM"},
                     {"stop_seconds", 10}}},
                   {"bridge", "br0"},
                   {"mac", "02:1a:2b:3c:4d:5e"},
                   {"addresses", {"192.0.2.10/24"}},
                   {"gateways", json::array()},
                   {"id_base", 65536},
                   {"epoch", 1},
                   {"created", 0},
                   {"last_move", ""}};
  EXPECT_FALSE(Config::parse(document.dump()).start.control_groups);  // boxes from before there was the key
  document["start"]["control_groups"] = true;
  const Config config = Config::parse(document.dump());
  EXPECT_TRUE(config.start.control_groups);
  EXPECT_TRUE(Config::parse(config.render()).start.control_groups);
  document["start"]["control_groups"] = "yes";
  EXPECT_THROW(Config::parse(document.dump()), base::Error);
}

}  // namespace
}  // namespace box
