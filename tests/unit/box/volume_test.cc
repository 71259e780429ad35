#include "box/volume.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace box {
namespace {

TEST(Volume, IsADirectoryOrAnImageOfASize) {
  EXPECT_EQ(parse_volume("dir"), 0U);
  EXPECT_EQ(parse_volume("image:64M"), kLeastImage);
  EXPECT_EQ(parse_volume("image:3G"), uint64_t{3} << 30);
  EXPECT_EQ(parse_volume("image:32G"), kMostImage);
  for (const char* text : {"", "image", "image:", "image:M", "image:1", "image:1K", "image:1GB", "image:1.5G",
                           "image:-1G", "image: 1G", "image:+1G", "image:63M", "image:33G", "image:0G",
                           "image:18446744073709551617M", "dir:1G", "IMAGE:1G"})
    EXPECT_THROW(parse_volume(text), base::Error) << text;
}

TEST(Volume, IsSaidAsItIsAskedFor) {
  for (const char* text : {"dir", "image:64M", "image:100M", "image:3G"})
    EXPECT_EQ(volume_text(parse_volume(text)), text);
  EXPECT_EQ(volume_text(parse_volume("image:2048M")), "image:2G");
}

TEST(Volume, IsInTheBoxsConfiguration) {
  Config config;
  config.name = "web1";
  config.uuid = std::string(32, 'a');
  config.template_ref = "shell@2026010101";
  config.layers = {{"sha256:" + std::string(64, 'a'), 4096}};
  config.start.init = {"/sbin/init"};
  config.bridge = "br0";
  config.mac = Mac::parse("02:1a:2b:3c:4d:5e");
  config.addresses = {Address::parse("192.0.2.10/24")};
  config.id_base = 65536;
  EXPECT_EQ(config.render().find("image_bytes"), std::string::npos);
  EXPECT_EQ(Config::parse(config.render()).image_bytes, 0U);
  for (uint64_t bytes : {kLeastImage, kLeastImage + 4096, kMostImage}) {
    config.image_bytes = bytes;
    EXPECT_EQ(Config::parse(config.render()).image_bytes, bytes);
  }
  for (uint64_t bytes : {uint64_t{1}, kLeastImage - 4096, kLeastImage + 1, kMostImage + 4096, UINT64_MAX}) {
    config.image_bytes = bytes;
    EXPECT_THROW(Config::parse(config.render()), base::Error) << bytes;
  }
}

}  // namespace
}  // namespace box
