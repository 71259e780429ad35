#include "migrate/caught.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "tests/unit/migrate/tree_tools.h"

namespace migrate {
namespace {

Message message(std::vector<std::byte> bytes) { return {.type = Frame::kCaught, .bytes = std::move(bytes)}; }

box::CaughtFrame frame(size_t length, unsigned filled_with) {
  return {.offload = {std::byte(1), std::byte(filled_with)},
          .bytes = std::vector<std::byte>(length, std::byte(filled_with))};
}

std::string refusal(std::vector<std::byte> bytes) {
  return error_of([&] { (void)parse_caught(message(std::move(bytes))); });
}

TEST(Caught, ArrivesAsItWasSent) {
  const std::vector<box::CaughtFrame> frames = {frame(14, 7), frame(65'550, 8), frame(60, 9)};
  EXPECT_EQ(frames, parse_caught(message(encode_caught(frames))));
  EXPECT_TRUE(parse_caught(message(encode_caught({}))).empty());
}

TEST(Caught, LooksLikeThisOnTheWire) {
  const auto bytes = encode_caught({{frame(0x0203, 5)}});
  ASSERT_EQ(14 + 0x0203u, bytes.size());
  EXPECT_EQ(std::byte(1), bytes[0]);
  EXPECT_EQ(std::byte(5), bytes[1]);
  EXPECT_EQ(std::byte(0), bytes[9]);
  EXPECT_EQ(std::byte(3), bytes[10]);
  EXPECT_EQ(std::byte(2), bytes[11]);
  EXPECT_EQ(std::byte(0), bytes[13]);
  EXPECT_EQ(std::byte(5), bytes[14]);
}

TEST(Caught, TheMostThatIsCaughtFitsIntoAFrame) {
  std::vector<box::CaughtFrame> frames(box::kMostFrames, frame(box::kMostFrameBytes / box::kMostFrames, 1));
  EXPECT_LE(encode_caught(frames).size(), kMaxFrame);
  EXPECT_EQ(frames, parse_caught(message(encode_caught(frames))));
}

TEST(Caught, RefusesWhatIsOutOfBounds) {
  EXPECT_EQ("the other node sent a frame for the box of 13 bytes, which cannot be right",
            refusal(encode_caught({{frame(13, 1)}})));
  EXPECT_EQ("the other node sent a frame for the box of 65551 bytes, which cannot be right",
            refusal(encode_caught({{frame(65'551, 1)}})));
  const std::vector<box::CaughtFrame> many(box::kMostFrames + 1, frame(14, 1));
  EXPECT_EQ("the other node sent frames for the box that cannot be right", refusal(encode_caught(many)));
}

TEST(Caught, RefusesAnEndInTheMiddle) {
  const auto whole = encode_caught({{frame(20, 1), frame(30, 2)}});
  const size_t first = 14 + 20;
  for (size_t length = 1; length < whole.size(); ++length) {
    if (length == first) continue;
    EXPECT_NE("", refusal({whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(length)})) << length;
  }
}

}  // namespace
}  // namespace migrate
