#include "image/lock.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "base/mount.h"
#include "tests/unit/image/image_samples.h"

namespace image {
namespace {

class Lock : public ::testing::Test {
 protected:
  std::string error(const std::string& text, const std::string& image = "node") {
    base::write_file(file_, text);
    std::string all = thrown([&] { (void)read_lock(file_, image); });
    std::string start = "error: " + file_;
    if (!all.starts_with(start) ||
        !all.ends_with("\nhint: remove the file, and make it anew with --update-lock\n"))
      return "?" + all;
    return all.substr(start.size(), all.find('\n') - start.size());
  }

  base::TempDir directory_ = base::TempDir::make("/tmp", "image-lock-");
  std::string file_ = directory_.path() + "/image.lock";
  std::vector<Package> packages_ = {
      {.name = "bash", .version = "5.2.37-2+b5", .architecture = "amd64"},
      {.name = "libstdc++6", .version = "1:14.2.0-19~x", .architecture = "all"}};
};

TEST_F(Lock, IsReadAsItWasWritten) {
  EXPECT_EQ(read_lock(file_, "node"), std::nullopt) << "no file";
  write_lock(file_, "node", packages_);
  EXPECT_EQ(read_lock(file_, "node"), packages_);
  EXPECT_EQ(read_lock(file_, "other"), std::nullopt);
  EXPECT_EQ(base::read_file(file_),
            "{\n \"node\": [\n  \"bash=5.2.37-2+b5 amd64\",\n  \"libstdc++6=1:14.2.0-19~x all\"\n ]\n}\n");
}

TEST_F(Lock, OtherImagesStay) {
  write_lock(file_, "node", packages_);
  write_lock(file_, "another", {packages_[0]});
  write_lock(file_, "node", {packages_[1]});
  EXPECT_EQ(read_lock(file_, "node"), std::vector<Package>{packages_[1]});
  EXPECT_EQ(read_lock(file_, "another"), std::vector<Package>{packages_[0]});
  write_lock(file_, "none", {});
  EXPECT_EQ(read_lock(file_, "none"), std::vector<Package>{});
}

TEST_F(Lock, IsBesideItsDefinition) {
  EXPECT_EQ(lock_path("/srv/images/node.toml"), "/srv/images/image.lock");
  EXPECT_EQ(lock_path("node.toml"), std::filesystem::current_path().string() + "/image.lock");
}

TEST_F(Lock, AWrongLineIsNamedByItsNumber) {
  const std::string before =
      "{\n \"other\": [\n  \"bash 5 amd64\"\n ],\n \"node\": [\n  \"bash=5 amd64\",\n  ";
  struct Case {
    const char *line, *says;
  };
  const Case cases[] = {
      {"\"bash\"", ":7: expected packages such as"},
      {"\"bash 5 amd64\"", ":7: expected packages such as"},
      {"\"bash amd64=5\"", ":7: expected packages such as"},
      {"\"bash=5\"", ":7: expected packages such as"},
      {"\"=5 amd64\"", ":7: expected a package, its version and its architecture"},
      {"\"bash= amd64\"", ":7: expected a package, its version and its architecture"},
      {"\"bash=5 \"", ":7: expected a package, its version and its architecture"},
      {"\"bash=5 amd64 x\"", ":7: expected a package, its version and its architecture"},
      {"\"../../etc/passwd=5 amd64\"", ":7: expected a package, its version and its architecture"},
      {"\"-o=5 amd64\"", ":7: expected a package, its version and its architecture"},
      {"\"bash=5 ../../amd64\"", ":7: expected a package, its version and its architecture"},
      {"\"bash=5;reboot amd64\"", ":7: expected a package, its version and its architecture"},
      {"7", ": expected packages such as"},
      {"null", ": expected packages such as"},
      {"[]", ": expected packages such as"},
  };
  for (const auto& [line, says] : cases) {
    std::string said = error(before + line + "\n ]\n}\n");
    EXPECT_TRUE(said.starts_with(says) && said.ends_with(std::string(", found ") + line)) << said;
  }
}

TEST_F(Lock, WhatIsNoLockIsNamedByItsLineToo) {
  EXPECT_EQ(error("{\n \"node\": [\n  \"bash=5 amd64\"\n  \"x=1 all\"\n ]\n}\n"), ":4: this is not JSON");
  EXPECT_EQ(error("{\n \"node\": [\n"), ":3: this is not JSON");
  EXPECT_EQ(error(""), ":1: this is not JSON");
  EXPECT_EQ(error("\xff\xfe"), ":1: this is not JSON");
  EXPECT_EQ(error("[]"), ": expected a JSON object with a list of packages for each image");
  EXPECT_EQ(error("{\"node\": {}}"), ": expected a list of packages for node");
  EXPECT_EQ(error("{\"node\": \"bash=5 amd64\"}"), ": expected a list of packages for node");
  // Nothing of it is written over either.
  base::write_file(file_, "no lock");
  EXPECT_NE(thrown([&] { write_lock(file_, "node", packages_); }), "");
  EXPECT_EQ(base::read_file(file_), "no lock");
}

}  // namespace
}  // namespace image
