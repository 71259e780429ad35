#include "templates/manifest.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/unit/templates/samples.h"

namespace templates {
namespace {

using nlohmann::json;

Layer layer(char digit, uint64_t bytes) {
  return {.digest = "sha256:" + std::string(64, digit), .bytes = bytes};
}

Manifest sample() { return TestStore::sample("redis", "2026112101", {layer('a', 4096), layer('b', 1)}); }

TEST(Manifest, IsReadAsItWasWritten) {
  Manifest manifest = sample();
  manifest.base = "debian-13@2026112003";
  EXPECT_EQ(Manifest::parse(manifest.render()), manifest);
  EXPECT_EQ(manifest.render(), Manifest::parse(manifest.render()).render());
}

TEST(Manifest, SameContentIsAllButTheVersion) {
  Manifest older = sample(), newer = sample();
  newer.version = "2026112102";
  EXPECT_TRUE(newer.same_content(older));
  newer.packages[0].version = "2.41-13";
  EXPECT_FALSE(newer.same_content(older));
}

TEST(Manifest, IgnoresKeysThatItDoesNotKnow) {
  json document = json::parse(sample().render());
  document["since"] = "tomorrow";
  EXPECT_EQ(Manifest::parse(document.dump()), sample());
}

/// A manifest with one key changed, and what the error must say.
struct Hostile {
  const char* pointer;
  json value;
  const char* says;
};

TEST(Manifest, HostileOnesAreRefusedByKey) {
  const Hostile cases[] = {
      {"/format", "drover-template-2", "the format \"drover-template-2\""},
      {"/name", "../../etc", "name: expected"},
      {"/name", "/etc/passwd", "name: expected"},
      {"/name", "", "name: expected"},
      {"/name", "Redis", "name: expected"},
      {"/name", std::string(64, 'a'), "name: expected"},
      {"/name", "a\nb", "name: expected"},
      {"/name", 5, "name: expected a text"},
      {"/version", "20261121", "version: expected YYYYMMDDnn"},
      {"/version", "../../../../x", "version: expected"},
      {"/version", "202611210x", "version: expected"},
      {"/base", "../x@2026112101", "base: expected"},
      {"/base", "debian@1", "base: expected"},
      {"/fingerprint", "sha256:xyz", "fingerprint: expected"},
      {"/clock", -1, "clock: expected"},
      {"/clock", 1e300, "clock: expected"},
      {"/tree_bytes", "12", "tree_bytes: expected"},
      {"/layers", json::array(), "layers: expected at least one"},
      {"/layers", json::object(), "layers: expected a list"},
      {"/layers", json(std::vector<json>(17, json::object())), "at most 16"},
      {"/layers/0/digest", "sha256:../../../../etc/passwd", "layers.digest: expected"},
      {"/layers/0/digest", "sha256:" + std::string(64, 'A'), "layers.digest: expected"},
      {"/layers/0/digest", "sha256:" + std::string(64, 'b'), "each layer once"},
      {"/layers/0/bytes", -4096, "layers.bytes: expected"},
      {"/layers/0/bytes", 18446744073709551615u, "layers.bytes: expected"},
      {"/layers/0/bytes", 4096.5, "layers.bytes: expected"},
      {"/layers/0", 7, "layers: expected an object"},
      {"/packages/0", nullptr, "packages: expected an object"},
      {"/packages/0/name", std::string(300, 'x'), "packages.name: expected a shorter text"},
      {"/box/init", json::array(), "box: expected init to begin with the absolute path"},
      {"/box/init", {"sh"}, "box: expected init to begin with the absolute path"},
      {"/box/init", {"/bin/sh", 1}, "box.init: expected texts"},
      {"/box/init", {std::string("/bin/sh\0x", 9)}, "box.init: expected texts"},
      {"/box/env", {{"A=B", "c"}}, "no variable called \"A=B\""},
      {"/box/env", {{"A", 1}}, "box.env.A: expected a text"},
      {"/box/working_dir", "tmp", "working_dir to be an absolute path"},
      {"/box/stop_signal", "SIGKILL", "stop_signal to be one of"},
      {"/box/stop_seconds", 0, "stop_seconds from 1"},
      {"/box/control_groups", 1, "box.control_groups: expected true or false"},
      {"/box/stop_seconds", 99999, "box.stop_seconds: expected"},
      {"/box", 3, "box: expected an object"},
  };
  for (const auto& [pointer, value, says] : cases) {
    json document = json::parse(sample().render());
    document[json::json_pointer(pointer)] = value;
    std::string error = thrown([&] { Manifest::parse(document.dump()); });
    EXPECT_TRUE(error.contains(says)) << pointer << " = " << value << "\n" << error;
  }
}

TEST(Manifest, EveryKeyIsNeeded) {
  json whole = json::parse(sample().render());
  for (const auto& [key, value] : whole.items()) {
    json document = whole;
    document.erase(key);
    std::string error = thrown([&] { Manifest::parse(document.dump()); });
    EXPECT_TRUE(error.contains(key + ": expected it to be there")) << error;
  }
}

TEST(Manifest, ControlGroupsNeedNotBeThere) {
  Manifest manifest = sample();
  EXPECT_FALSE(Manifest::parse(manifest.render()).start.control_groups);
  EXPECT_FALSE(manifest.render().contains("control_groups"));
  manifest.start.control_groups = true;
  EXPECT_EQ(Manifest::parse(manifest.render()), manifest);
}

TEST(Manifest, OtherTextsAreRefused) {
  for (const char* text : {"", "{", "[]", "null", "7", "{\"format\": \"drover-template-1\"", "\xff\xfe"})
    EXPECT_TRUE(thrown([&] { Manifest::parse(text); }).contains("the manifest is malformed")) << text;
  EXPECT_TRUE(thrown([] { Manifest::parse(std::string(9 << 20, ' ')); }).contains("larger than 8.0 MiB"));
  EXPECT_TRUE(thrown([] { Manifest::parse(std::string(1 << 20, '[')); }).contains("not JSON"));
}

TEST(Names, AreFileNamesAndNothingElse) {
  for (const char* good : {"redis", "debian-13", "a", "g++", "a.b"}) EXPECT_TRUE(valid_name(good)) << good;
  for (const char* bad : {"", ".", "..", ".x", "-x", "a/b", "a b", "A", "a@b", "a_b", "\xc3\xa4"})
    EXPECT_FALSE(valid_name(bad)) << bad;
  EXPECT_TRUE(valid_reference("redis@2026112101"));
  for (const char* bad : {"redis@", "@2026112101", "redis@2026112101@", "redis@latest", "a@b@c"})
    EXPECT_FALSE(valid_reference(bad)) << bad;
}

}  // namespace
}  // namespace templates
