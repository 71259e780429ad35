#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <cstdint>
#include <string>

#include "base/error.h"
#include "migrate/preflight.h"

namespace migrate {
namespace {

Hello hello() {
  Hello h;
  h.id = std::string(32, 'b');
  h.from = "node1";
  h.criu = "4.2";
  h.config.name = "web1";
  h.config.uuid = std::string(32, 'a');
  h.config.template_ref = "shell@2026010101";
  h.config.layers = {{"sha256:" + std::string(64, 'a'), 4096}};
  h.config.start.init = {"/sbin/init"};
  h.config.bridge = "br0";
  h.config.mac = box::Mac::parse("02:1a:2b:3c:4d:5e");
  h.config.addresses = {box::Address::parse("192.0.2.10/24")};
  h.config.id_base = 65536;
  h.memory_bytes = 1 << 20;
  return h;
}

std::string refusal(const nlohmann::json& json) {
  try {
    Hello::parse(json);
  } catch (const base::Error& e) {
    return e.message();
  }
  return "";
}

TEST(Hello, IsReadAsItIsWritten) {
  EXPECT_EQ(Hello::parse(hello().json()).json(), hello().json());
  Hello last = hello();
  last.config.epoch = box::kMostEpoch / 2;
  EXPECT_EQ(Hello::parse(last.json()).config.epoch, box::kMostEpoch / 2);
}

TEST(Hello, WithAnEpochThatCannotGrowIsRefused) {
  for (const uint64_t epoch : {uint64_t{0}, box::kMostEpoch / 2 + 1, box::kMostEpoch + 1, UINT64_MAX}) {
    Hello h = hello();
    h.config.epoch = epoch;
    EXPECT_NE(refusal(h.json()), "") << epoch;
  }
}

TEST(Hello, WithBytesThatNobodyHasIsRefused) {
  for (const char* key : {"memory_bytes", "shared_bytes", "private_bytes"}) {
    for (const nlohmann::json& bytes : {nlohmann::json(-1), nlohmann::json(UINT64_MAX), nlohmann::json("1"),
                                        nlohmann::json((uint64_t{1} << 50) + 1)}) {
      auto json = hello().json();
      json[key] = bytes;
      EXPECT_NE(refusal(json), "") << key << " " << bytes;
    }
  }
}

TEST(Hello, OfNoNodeIsRefused) {
  for (const std::string from :
       {"", "-oProxyCommand=x", "node1\x1b[2J", "a b", std::string(256, 'a').c_str(), "n\n"}) {
    Hello h = hello();
    h.from = from;
    EXPECT_EQ(refusal(h.json()), "the other node's greeting has no host name") << from;
  }
}

}  // namespace
}  // namespace migrate
