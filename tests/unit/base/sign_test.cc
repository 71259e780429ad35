#include "base/sign.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <functional>

#include "base/error.h"
#include "base/fd.h"
#include "base/mount.h"

namespace base {
namespace {

// Made by minisign 0.12 (-G -W, -S, -S -l) over "hello\n".
constexpr const char* kMessage = "hello\n";
constexpr const char* kPublic =
    "untrusted comment: minisign public key 119D0FBADE8C6585\n"
    "RWSFZYzeug+dEcy2Ons4sAP5fYs2pof6y2lPltFXyX4jgP4Kjm06Ay9X\n";
constexpr const char* kSecret =
    "untrusted comment: minisign encrypted secret key\n"
    "RWQAAEIyAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAhWWM3roPnRFVXjB0gLT7DT9Y+JJf66RD"
    "Wk2AYgaCfsQ1ZznP+7z+"
    "VMy2Ons4sAP5fYs2pof6y2lPltFXyX4jgP4Kjm06Ay9XAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
    "A=\n";
constexpr const char* kSignature =
    "untrusted comment: signature from minisign secret key\n"
    "RUSFZYzeug+dEQ3KfCyFju0L71qxPPaO5XVRCnZ30pLCs4GTL1xMgVsaFoPkVwinA1V8jmbHy35vBD8UFuv2iKjkAJFgSbH1Ig0=\n"
    "trusted comment: a trusted comment\n"
    "fOp76+R3HjzGFc7QVxUy1lybUQt0ujLEY+brAdvF8UCRrlfXzNWQGqnbfLCiitx6AgaAg8gclKljhk1ChlN4BA==\n";
constexpr const char* kLegacySignature =
    "untrusted comment: signature from minisign secret key\n"
    "RWSFZYzeug+dERo1ZTEP7b7FBylHTWRz8+qjZITLa/uG+rYR2yNzP4E3e66bKn/bW/OrdeywH9cnpZ1fNeIBLy1WyXvKSRG33Aw=\n"
    "trusted comment: legacy\n"
    "D8nxNh1DRK2EHfHvWeedd/RnCwyxbINJv8B23ZnEpJ2LtX7d3s4lfL5KQvkheTpr4hxbrs0VQdk7TZurxTt0BA==\n";

std::string thrown(const std::function<void()>& body) {
  try {
    body();
    return "";
  } catch (const Error& e) {
    return e.render();
  }
}

class SignTest : public testing::Test {
 protected:
  std::string verify(std::string_view message, std::string_view signature) {
    return thrown([&] { keys_.verify(message, signature, "it"); });
  }
  void put(const std::string& name, std::string_view text) {
    base::write_file(directory_.path() + "/" + name, text);
  }

  base::TempDir directory_ = base::TempDir::make("/tmp", "sign-");
  Keys keys_ = Keys(directory_.path());
};

TEST_F(SignTest, WhatMinisignSignedIsGood) {
  put("vendor.pub", kPublic);
  EXPECT_EQ(verify(kMessage, kSignature), "");
  EXPECT_EQ(verify(kMessage, kLegacySignature), "");
}

TEST_F(SignTest, SignsWithAKeyOfMinisignAsMinisignDoes) {
  put("local.key", kSecret);
  std::string signature = keys_.sign(kMessage, "a trusted comment");
  std::string ours = signature.substr(signature.find('\n')), theirs = kSignature;
  EXPECT_EQ(ours, theirs.substr(theirs.find('\n')));
}

TEST_F(SignTest, TheFirstSignatureMakesAKeyThatOnlyItsOwnerReads) {
  std::string signature = keys_.sign("text", "comment");
  struct stat status;
  ASSERT_EQ(::stat((directory_.path() + "/local.key").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0600u);
  EXPECT_EQ(verify("text", signature), "");
  std::string key = base::read_file(directory_.path() + "/local.key");
  EXPECT_EQ(verify("more", keys_.sign("more", "comment")), "");
  EXPECT_EQ(base::read_file(directory_.path() + "/local.key"), key) << "the key is made once";
}

TEST_F(SignTest, AnythingChangedIsNoticed) {
  put("vendor.pub", kPublic);
  EXPECT_TRUE(verify("hello", kSignature).contains("it does not match its signature"));
  std::string comment = kSignature;
  comment.replace(comment.find("a trusted"), 9, "A trusted");
  EXPECT_TRUE(verify(kMessage, comment).contains("does not match")) << "the comment is signed too";
  std::string swapped = kSignature;
  std::string other = kLegacySignature;
  EXPECT_TRUE(verify(kMessage, swapped.substr(0, swapped.find("trusted comment: a")) +
                                   other.substr(other.find("trusted comment: l")))
                  .contains("does not match"));
}

TEST_F(SignTest, EveryByteOfASignatureCounts) {
  put("vendor.pub", kPublic);
  std::string whole = kSignature;
  size_t begin = whole.find('\n') + 1;  // the first line is for people
  for (size_t i = begin; i + 1 < whole.size(); ++i) {
    std::string changed = whole;
    changed[i] = changed[i] == 'A' ? 'B' : 'A';
    EXPECT_NE(verify(kMessage, changed), "") << i;
  }
  for (size_t size = 0; size + 1 < whole.size(); size += 7)
    EXPECT_NE(verify(kMessage, whole.substr(0, size)), "");
}

TEST_F(SignTest, AnUnknownKeyIsNotTrusted) {
  std::string error = verify(kMessage, kSignature);
  EXPECT_TRUE(error.contains("it is not signed by a key that is trusted here")) << error;
  EXPECT_TRUE(error.contains("local.pub")) << "the hint says how to trust it: " << error;
}

TEST_F(SignTest, AnotherKeyWithTheSameNumberDoesNotHelp) {
  std::string forged = kPublic;
  forged.replace(forged.find("cy2Ons4"), 7, "cy2Ons5");
  put("a.pub", forged);
  EXPECT_TRUE(verify(kMessage, kSignature).contains("does not match"));
  put("b.pub", kPublic);
  EXPECT_EQ(verify(kMessage, kSignature), "") << "one of them is right";
}

TEST_F(SignTest, KeysThatCannotSignAreRefused) {
  std::string damaged = kSecret;
  damaged[damaged.find("VV4w") + 2] = 'x';  // in the key itself
  std::string with_password = kSecret;
  with_password.replace(with_password.find("RWQAAEIy"), 8, "RWRTY0Iy");
  for (const auto& [text, says] : {std::pair{std::string("nonsense"), "not in minisign's format"},
                                   std::pair{with_password, "it has a password"}}) {
    put("local.key", text);
    EXPECT_TRUE(thrown([&] { (void)keys_.sign("x", "y"); }).contains(says)) << text;
  }
}

TEST_F(SignTest, AHashIsAsGoodAsTheMessage) {
  Blake2b hash, other;
  for (char c : std::string_view(kMessage)) hash.add(std::as_bytes(std::span(&c, 1)));
  const Blake2b::Digest digest = hash.digest();
  put("vendor.pub", kPublic);
  EXPECT_EQ(thrown([&] { keys_.verify(digest, kSignature, "it"); }), "");
  EXPECT_TRUE(thrown([&] { keys_.verify(other.digest(), kSignature, "it"); }).contains("does not match"));
  EXPECT_TRUE(thrown([&] { keys_.verify(digest, kLegacySignature, "it"); }).contains("does not match"))
      << "that one is over the message itself";
  put("local.key", kSecret);
  EXPECT_EQ(keys_.sign(digest, "c"), keys_.sign(kMessage, "c"));
}

TEST_F(SignTest, FilesThatAreNoKeysArePassedOver) {
  put("broken.pub", "untrusted comment: x\nAAAA\n");
  put("vendor.pub", kPublic);
  testing::internal::CaptureStderr();
  EXPECT_EQ(verify(kMessage, kSignature), "");
  EXPECT_TRUE(testing::internal::GetCapturedStderr().contains("broken.pub is not a minisign public key"));
}

}  // namespace
}  // namespace base
