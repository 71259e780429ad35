#include "image/ssh_key.h"

#include <gtest/gtest.h>

namespace image {
namespace {

/// By ssh-keygen, one of each length of padding; with a comment, without one, and with one of two words.
const std::string kEd25519 =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAICvUVVvW47maiNHlZl3hbnsubLw+0o3oLGimgK6173d+ alice@desk";
const std::string kEcdsa =
    "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBFr80QlpFG84m3qXZ1Lqk0is"
    "81ex7xp5XwHEPQbVK5zk2Muj0KJ9GNKFjIcQCNOM4ZkMWhetPBAtD4MUw5OMFfg=";
const std::string kRsa =
    "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABAQCc9UW+30Trryum0xIY3X4DCIcusCflXzHWdYu0gHBL11J0ubE34+92y/zx"
    "Bo+N82OLE5UNpqewCqqHDONhCnT+fBZqnjV/aH2xL+ekSSfMmxD3g/xdP5M65TwBRwTii6H03R7nZjnXxBN/QZM/xZ/EQVp+"
    "3Vr5vUHnqTSdA7JYQjjCKKBYhKzt3FmJCX2ZINt/l8nNbhRO4ltHtcrM5bRPMSzIPe6FIlQJBj/QxZtBdTOsFzrDCRZaHjgV"
    "UE5VfZi8UjQoT0VwnQJJbeUFiDkAdyKQJqYUXKIutJb2F9tvPGL0q5YSH90Nl9M6Y/b4erZ0Ba0O1rm4x+lSzR4nEVjr two"
    " words";

TEST(SshKey, AsSshKeygenWritesIt) {
  for (const std::string& key : {kEd25519, kEcdsa, kRsa}) EXPECT_EQ(problem_with_ssh_key(key), "");
}

TEST(SshKey, OfAnotherKind) {
  EXPECT_EQ(problem_with_ssh_key("-----BEGIN OPENSSH PRIVATE KEY-----\nb3Bl"),
            "expected the line of a .pub file (TYPE BASE64 COMMENT), found a private key");
  EXPECT_EQ(problem_with_ssh_key(kEd25519 + "\n" + kRsa),
            "expected the line of a .pub file (TYPE BASE64 COMMENT), found one with a line break or control "
            "character");
  EXPECT_EQ(problem_with_ssh_key("ssh-dss AAAA"),
            "expected the line of a .pub file (TYPE BASE64 COMMENT), found the type \"ssh-dss\"");
  EXPECT_EQ(
      problem_with_ssh_key("command=\"/bin/true\" " + kEd25519),
      "expected the line of a .pub file (TYPE BASE64 COMMENT), found the type \"command=\"/bin/true\"\"");
  EXPECT_EQ(problem_with_ssh_key(""),
            "expected the line of a .pub file (TYPE BASE64 COMMENT), found the type \"\"");
}

/// However a key is cut off, it is noticed: but where only the comment is.
TEST(SshKey, CutOffAnywhere) {
  for (const std::string& key : {kEd25519, kEcdsa, kRsa}) {
    size_t end = key.find(' ', key.find(' ') + 1);
    if (end == std::string::npos) end = key.size();
    for (size_t size = 0; size < end; ++size)
      EXPECT_NE(problem_with_ssh_key(std::string_view(key).substr(0, size)), "") << size;
    for (size_t size = end; size <= key.size(); ++size)
      EXPECT_EQ(problem_with_ssh_key(std::string_view(key).substr(0, size)), "") << size;
  }
}

TEST(SshKey, ThatIsNotWhatItsTypeSays) {
  std::string key = kEd25519;
  key.replace(0, key.find(' '), "ssh-rsa");
  EXPECT_EQ(problem_with_ssh_key(key),
            "expected the line of a .pub file (TYPE BASE64 COMMENT), found a key of type ssh-rsa that is cut "
            "off or "
            "changed");
  for (char other : {'!', ' ', '=', '-'}) {
    std::string changed = kEd25519;
    changed[30] = other;
    EXPECT_NE(problem_with_ssh_key(changed), "") << other;
  }
}

}  // namespace
}  // namespace image
