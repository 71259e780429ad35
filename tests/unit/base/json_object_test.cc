#include "base/json_object.h"

#include <gtest/gtest.h>

namespace base {
namespace {

using nlohmann::json;

std::string thrown(const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& e) {
    return e.message();
  }
  return "nothing was thrown";
}

TEST(JsonObject, GivesWhatIsThere) {
  const json document = {{"t", "x"}, {"n", 7U}, {"f", true}, {"l", {1, 2}}, {"o", {{"in", "y"}}}};
  JsonObject in(document, "it");
  EXPECT_EQ(in.text("t"), "x");
  EXPECT_EQ(in.number("n", 7), 7u);
  EXPECT_TRUE(in.flag_if_there("f"));
  EXPECT_FALSE(in.flag_if_there("g"));
  EXPECT_EQ(in.list("l", 2).size(), 2u);
  EXPECT_EQ(in.map("o", 1).size(), 1u);
  EXPECT_EQ(in.object("o").text("in"), "y");
}

TEST(JsonObject, NamesDocumentAndKey) {
  const json document = {{"t", "long"}, {"n", 8U}, {"l", {1, 2}}, {"o", {{"in", 5}}}};
  JsonObject in(document, "the letter");
  EXPECT_EQ(thrown([&] { (void)in.text("x"); }), "the letter is malformed: x: expected it to be there");
  EXPECT_EQ(thrown([&] { (void)in.text("n"); }), "the letter is malformed: n: expected a text");
  EXPECT_EQ(thrown([&] { (void)in.text("t", 3); }),
            "the letter is malformed: t: expected a shorter text without zero bytes");
  EXPECT_EQ(thrown([&] { (void)in.number("n", 7); }),
            "the letter is malformed: n: expected a whole number up to 7");
  EXPECT_EQ(thrown([&] { (void)in.list("l", 1); }),
            "the letter is malformed: l: expected a list of at most 1 entries");
  EXPECT_EQ(thrown([&] { (void)in.map("o", 0); }),
            "the letter is malformed: o: expected an object with at most 0 keys");
  EXPECT_EQ(thrown([&] { (void)in.object("o").text("in"); }),
            "the letter is malformed: o.in: expected a text");
  EXPECT_EQ(thrown([&] { (void)in.object("n"); }), "the letter is malformed: n: expected an object");
  EXPECT_EQ(thrown([] { JsonObject(json::array(), "the letter"); }),
            "the letter is malformed: document: expected an object");
}

TEST(JsonObject, ParsesBoundedTexts) {
  EXPECT_EQ(parse_json("[1]", "it", 3), json({1}));
  EXPECT_EQ(thrown([] { parse_json("[1] ", "it", 3); }), "it is malformed: it is larger than 3 B");
  EXPECT_EQ(thrown([] { parse_json("[1", "it", 3); }), "it is malformed: it is not JSON");
}

}  // namespace
}  // namespace base
