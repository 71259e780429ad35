#include "migrate/stream.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <sys/socket.h>
#include <zstd.h>

#include <cstring>
#include <random>
#include <thread>

#include "base/fd.h"
#include "tests/unit/migrate/tree_tools.h"

namespace migrate {
namespace {

using namespace std::chrono_literals;

class Stream : public testing::Test {
 protected:
  Stream() {
    int pair[2];
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0) throw base::sys_error("socketpair");
    near_ = base::Fd(pair[0]);
    far_ = base::Fd(pair[1]);
  }
  static std::vector<std::byte> bytes(size_t size, unsigned kinds) {
    std::mt19937 random(7);
    std::vector<std::byte> made(size);
    for (auto& byte : made) byte = std::byte(random() % kinds);
    return made;
  }
  /// What a source says that is sent these frames of data, and then is asked for `wanted` bytes.
  static std::string refusal(std::vector<std::pair<Frame, std::string>> frames, size_t wanted = 10) {
    Stream pair;
    Wire near(pair.near_.get(), pair.near_.get()), far(pair.far_.get(), pair.far_.get());
    for (auto& [type, payload] : frames) near.send(type, std::as_bytes(std::span(payload)));
    ZstdSource source(far, 50ms);
    std::vector<std::byte> out(wanted);
    return error_of([&] {
      source.read_exact(out);
      source.finish();
    });
  }
  static std::string compressed(std::string_view text) {
    std::string out(ZSTD_compressBound(text.size()), '\0');
    out.resize(ZSTD_compress(out.data(), out.size(), text.data(), text.size(), 1));
    return out;
  }
  void TestBody() override {}
  base::Fd near_, far_;
};

TEST_F(Stream, WhatGoesInComesOut) {
  for (unsigned kinds : {256U, 3U})
    for (size_t size : {size_t{0}, size_t{1}, size_t{1000}, size_t{5'000'000}}) {
      Wire near(near_.get(), near_.get()), far(far_.get(), far_.get());
      auto data = bytes(size, kinds);
      std::jthread sender([&] {
        ZstdSink sink(near);
        std::mt19937 random(1);
        for (size_t at = 0; at < size;) {
          size_t piece = std::min(size - at, size_t{1} + random() % 200'000);
          sink.write(std::span(data).subspan(at, piece));
          at += piece;
        }
        sink.finish();
        EXPECT_EQ(size, sink.bytes_in());
        near.send_json(Frame::kHello, nlohmann::json::object());
      });
      ZstdSource source(far);
      std::vector<std::byte> got(size);
      std::mt19937 random(2);
      for (size_t at = 0; at < size;) {
        size_t piece = std::min(size - at, size_t{1} + (random() % 2 ? random() % 20 : random() % 300'000));
        source.read_exact(std::span(got).subspan(at, piece));
        at += piece;
      }
      source.finish();
      EXPECT_TRUE(data == got) << size;
      far.expect_json(Frame::kHello, 2s);  // nothing of it was swallowed
      if (kinds == 3) {
        EXPECT_LE(far.bytes_received(), size / 2 + 100);
      }
    }
}

/// Over a link that takes little, the level goes up within the stream, which is one for the other end.
TEST_F(Stream, TheLevelFollowsTheLink) {
  Wire near(near_.get(), near_.get());
  Wire far(far_.get(), far_.get());
  std::vector<std::byte> data(12 << 20);
  std::mt19937 random(5);
  for (size_t at = 0; at < data.size(); at += 8) {  // words, of which some come again
    const uint64_t word = random() % 3000 * 0x9E3779B97F4A7C15U;
    std::memcpy(data.data() + at, &word, 8);
  }
  std::jthread sender([&] {
    ZstdSink sink(near);
    for (size_t at = 0; at < data.size(); at += 1 << 20) sink.write(std::span(data).subspan(at, 1 << 20));
    sink.finish();
  });
  ZstdSource source(far);
  std::vector<std::byte> got(data.size());
  for (size_t at = 0; at < data.size(); at += 256 << 10) {
    source.read_exact(std::span(got).subspan(at, 256 << 10));
    std::this_thread::sleep_for(30ms);
  }
  source.finish();
  sender.join();
  EXPECT_TRUE(data == got);
  EXPECT_GT(near.level().now(), Level::kFirst + 2);
}

TEST_F(Stream, FramesAreSmall) {
  Wire near(near_.get(), near_.get()), far(far_.get(), far_.get());
  std::jthread sender([&] {
    ZstdSink sink(near);
    sink.write(bytes(3'000'000, 256));
    sink.finish();
  });
  size_t frames = 0;
  while (true) {
    Message message = far.recv(2s);
    if (message.type == Frame::kDataEnd) break;
    EXPECT_LE(message.bytes.size(), 256 << 10);
    ++frames;
  }
  EXPECT_GE(frames, 12);
}

TEST_F(Stream, WhatCannotBeRight) {
  std::string ten = compressed("0123456789"), eleven = compressed("0123456789a");
  EXPECT_EQ("no error", refusal({{Frame::kData, ten}, {Frame::kDataEnd, ""}}));
  EXPECT_EQ("the other node ended its data too early",
            refusal({{Frame::kData, ten}, {Frame::kDataEnd, ""}}, 11));
  EXPECT_EQ("the other node sent more data than was due",
            refusal({{Frame::kData, eleven}, {Frame::kDataEnd, ""}}));
  EXPECT_EQ("no error", refusal({{Frame::kData, ten}, {Frame::kData, ten}, {Frame::kDataEnd, ""}}, 20));
  EXPECT_EQ("no error", refusal({{Frame::kData, ten + ten}, {Frame::kDataEnd, ""}}, 20));
  EXPECT_EQ("no error", refusal({{Frame::kData, compressed("") + ten}, {Frame::kDataEnd, ""}}));
  EXPECT_EQ("the other node sent more data than was due",
            refusal({{Frame::kData, ten}, {Frame::kData, ten}, {Frame::kDataEnd, ""}}));
  EXPECT_EQ("the other node ended its data in the middle",
            refusal({{Frame::kData, ten + ten.substr(0, 3)}, {Frame::kDataEnd, ""}}, 11));
  EXPECT_EQ("the other node's data cannot be decompressed: Unknown frame descriptor",
            refusal({{Frame::kData, ten + "no zstd stream"}, {Frame::kDataEnd, ""}}));
  EXPECT_EQ("the other node ended its data in the middle",
            refusal({{Frame::kData, ten.substr(0, 5)}, {Frame::kDataEnd, ""}}));
  EXPECT_EQ("the other node ended its data in the middle", refusal({{Frame::kDataEnd, ""}}));
  EXPECT_EQ("the other node was silent while we waited for more data", refusal({{Frame::kData, ten}}));
  EXPECT_EQ("the other node's data cannot be decompressed: Unknown frame descriptor",
            refusal({{Frame::kData, "no zstd stream"}}));
  EXPECT_EQ("the other node sent \"hello\" in the middle of data", refusal({{Frame::kHello, "{}"}}));
  EXPECT_EQ("the other node sent a frame of data without data", refusal({{Frame::kData, ""}}));
  EXPECT_EQ("the other node sent an end of data that holds 1 bytes",
            refusal({{Frame::kData, ten}, {Frame::kDataEnd, "x"}}));
  EXPECT_EQ("the other node failed: no space",
            refusal({{Frame::kData, ten.substr(0, 5)}, {Frame::kFailed, "{\"error\":\"no space\"}"}}));
}

TEST_F(Stream, AChangedByteIsFound) {
  Wire near(near_.get(), near_.get());
  ZstdSink sink(near);
  sink.write(bytes(1000, 256));  // not compressible: stored as it is, so only the checksum can tell
  sink.finish();
  Wire far(far_.get(), far_.get());
  std::vector<std::byte> frame = far.recv(2s).bytes;
  frame[500] ^= std::byte(1);
  EXPECT_EQ("the other node's data cannot be decompressed: Restored data doesn't match checksum",
            refusal({{Frame::kData, std::string(reinterpret_cast<char*>(frame.data()), frame.size())},
                     {Frame::kDataEnd, ""}},
                    1000));
}

TEST_F(Stream, AWindowThatWouldEatTheMemoryIsRefused) {
  ZSTD_CCtx* context = ZSTD_createCCtx();
  ZSTD_CCtx_setParameter(context, ZSTD_c_windowLog, 27);
  std::string text = "text", out(1000, '\0');
  ZSTD_outBuffer to = {out.data(), out.size(), 0};
  ZSTD_inBuffer from = {text.data(), text.size(), 0};
  ZSTD_compressStream2(context, &to, &from, ZSTD_e_flush);  // not the end: the size is not known
  ZSTD_freeCCtx(context);
  EXPECT_EQ("the other node's data cannot be decompressed: Frame requires too much memory for decoding",
            refusal({{Frame::kData, out.substr(0, to.pos)}}));
}

}  // namespace
}  // namespace migrate
