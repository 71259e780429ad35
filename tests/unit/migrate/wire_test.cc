#include "migrate/wire.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <thread>

#include "base/error.h"
#include "base/fd.h"
#include "tests/unit/migrate/tree_tools.h"

namespace migrate {
namespace {

using namespace std::chrono_literals;

/// Two pipes, as ssh gives them: what is written to `there` is read from `here`, and back.
class WireTest : public testing::Test {
 protected:
  void say(std::string_view bytes) { base::write_full(there_out_.get(), bytes, "pipe"); }
  static std::string frame(unsigned type, std::string_view payload, std::optional<uint32_t> length = {}) {
    uint32_t size = length.value_or(static_cast<uint32_t>(payload.size()));
    std::string text(1, static_cast<char>(type));
    for (int i = 0; i < 4; ++i) text += static_cast<char>(size >> (8 * i));
    return text + std::string(payload);
  }
  std::string failure(std::chrono::milliseconds timeout = 2s) {
    return error_of([&] { here_.recv(timeout, "its greeting"); });
  }

  base::Pipe to_here_ = base::make_pipe(), to_there_ = base::make_pipe();
  base::Fd there_in_ = std::move(to_there_.read), there_out_ = std::move(to_here_.write);
  Wire here_{to_here_.read.get(), to_there_.write.get(), 200ms};
};

TEST_F(WireTest, FramesArrive) {
  Wire there(there_in_.get(), there_out_.get());
  std::vector<std::byte> big(kMaxFrame, std::byte('x'));
  std::jthread sender([&] {
    there.send(Frame::kDataEnd);
    there.send(Frame::kData, big);
    there.send_json(Frame::kHello, {{"version", 1}});
  });
  EXPECT_EQ(Frame::kDataEnd, here_.recv(2s).type);
  Message message = here_.recv(2s);
  EXPECT_EQ(Frame::kData, message.type);
  EXPECT_EQ(big, message.bytes);
  EXPECT_EQ(1, here_.expect_json(Frame::kHello, 2s).at("version"));
  sender.join();
  EXPECT_EQ(3 * 5 + kMaxFrame + std::strlen("{\"version\":1}"), here_.bytes_received());
  EXPECT_EQ(there.bytes_sent(), here_.wire_bytes());
}

TEST_F(WireTest, LooksLikeThisOnTheWire) {
  here_.send(Frame::kOffer, std::as_bytes(std::span(std::string_view("hi"))));
  char bytes[8];
  ASSERT_EQ(7, ::read(there_in_.get(), bytes, sizeof bytes));
  EXPECT_EQ(std::string("\x11\x02\0\0\0hi", 7), std::string(bytes, 7));
}

TEST_F(WireTest, SaysWhatTheOtherSideDid) {
  there_out_.close();
  EXPECT_EQ("the other node closed the connection while we waited for its greeting", failure());
}

TEST_F(WireTest, AnEndInTheMiddle) {
  for (std::string start :
       {std::string("\x10"), std::string("\x10\x05\0\0\0", 5), std::string("\x10\x05\0\0\0ab", 7)}) {
    base::Pipe pipe = base::make_pipe();
    base::write_full(pipe.write.get(), start, "pipe");
    pipe.write.close();
    Wire wire(pipe.read.get(), to_there_.write.get());
    EXPECT_EQ("the other node closed the connection while we waited for \"hello\"",
              error_of([&] { wire.expect_json(Frame::kHello, 2s); }));
  }
}

TEST_F(WireTest, Silence) {
  EXPECT_EQ("the other node was silent while we waited for its greeting", failure(20ms));
  say("\x10");  // not even a whole head
  EXPECT_EQ("the other node was silent while we waited for its greeting", failure(20ms));
}

TEST_F(WireTest, UnknownTypes) {
  say(frame(99, ""));
  EXPECT_EQ("the other node sent a frame of the unknown type 99 while we waited for its greeting", failure());
}

TEST_F(WireTest, LengthsOutOfBounds) {
  say(frame(1, "", kMaxFrame + 1));
  EXPECT_EQ(
      "the other node announced a frame \"data\" of 1048577 bytes, more than the 1048576 that are allowed",
      failure());
  std::vector<std::byte> big(kMaxFrame + 1);
  EXPECT_EQ("a frame \"data\" of 1048577 bytes is more than the 1048576 that the other node takes",
            error_of([&] { here_.send(Frame::kData, big); }));
}

TEST_F(WireTest, AnotherFrameThanWasDue) {
  say(frame(17, "{}"));
  EXPECT_EQ("the other node sent \"offer\" where \"hello\" was due",
            error_of([&] { here_.expect_json(Frame::kHello, 2s); }));
}

TEST_F(WireTest, NoJson) {
  for (std::string text : {"", "{", "[1]", "\"text\"", "{\"a\": \xff}", "{} {}"}) {
    say(frame(16, text));
    EXPECT_EQ("the other node sent a frame \"hello\" that holds no JSON object",
              error_of([&] { here_.expect_json(Frame::kHello, 2s); }))
        << text;
  }
  std::string deep(kMaxFrame, '[');
  std::jthread sender([&] { say(frame(16, deep)); });
  EXPECT_EQ("the other node sent a frame \"hello\" that holds no JSON object",
            error_of([&] { here_.expect_json(Frame::kHello, 2s); }));
}

TEST_F(WireTest, TheOtherSidesOwnWords) {
  Wire(there_in_.get(), there_out_.get()).send_failed("the disk is\x1b[31m full", "free some");
  try {
    here_.expect_json(Frame::kHello, 2s);
    FAIL();
  } catch (const base::Error& e) {
    EXPECT_EQ("the other node failed: the disk is [31m full", e.message());
    EXPECT_EQ("free some", e.hint());
  }
  say(frame(3, "{\"error\": 5}"));
  EXPECT_EQ("the other node failed: ", failure());
}

TEST_F(WireTest, AClosedPipeIsAnErrorAndNoSignal) {
  there_in_.close();
  ASSERT_EQ(SIG_DFL, ::signal(SIGPIPE, SIG_DFL));
  there_out_.close();
  EXPECT_EQ("the other node closed the connection while we sent to it",
            error_of([&] { here_.send(Frame::kData); }));
  here_.send_failed("nobody hears it");
  sigset_t pending;
  sigpending(&pending);
  EXPECT_EQ(0, sigismember(&pending, SIGPIPE));
  sigset_t blocked;
  pthread_sigmask(SIG_BLOCK, nullptr, &blocked);
  EXPECT_EQ(0, sigismember(&blocked, SIGPIPE));
}

TEST_F(WireTest, AClosedPipeWithAReason) {
  say(frame(17, "{}"));  // something that nobody had read yet
  Wire(there_in_.get(), there_out_.get()).send_failed("the disk is full");
  there_in_.close();
  EXPECT_EQ("the other node failed: the disk is full", error_of([&] { here_.send(Frame::kData); }));
}

TEST_F(WireTest, ASideThatTakesNothing) {
  there_out_.close();
  std::vector<std::byte> big(kMaxFrame);
  EXPECT_EQ("the other node has taken nothing for 0.2 s", error_of([&] { here_.send(Frame::kData, big); }));
}

TEST_F(WireTest, ASideThatTakesLittleIsWaitedFor) {
  std::jthread slow([&] {
    std::byte bytes[4096];
    for (int i = 0; i < 20; ++i) {
      std::this_thread::sleep_for(30ms);  // 0.4 s until the last byte is in the pipe, twice the patience
      (void)!::read(there_in_.get(), bytes, sizeof bytes);
    }
  });
  std::vector<std::byte> some(64 * 1024 + 12 * 4096);
  EXPECT_EQ("no error", error_of([&] { here_.send(Frame::kData, some); }));
}

TEST_F(WireTest, AWaitCanBeStopped) {
  here_.on_wait([] { throw base::error("interrupted"); });
  EXPECT_EQ("interrupted", failure(10s));
}

TEST_F(WireTest, LeavesTheDescriptorsAsTheyWere) {
  int flags = ::fcntl(there_in_.get(), F_GETFL);
  {
    Wire there(there_in_.get(), there_out_.get());
    EXPECT_TRUE(::fcntl(there_in_.get(), F_GETFL) & O_NONBLOCK);
  }
  EXPECT_EQ(flags, ::fcntl(there_in_.get(), F_GETFL));
}

TEST(WireNames, EveryTypeHasOne) {
  for (const FrameName& known : kFrames) EXPECT_EQ(known.name, frame_name(known.type));
  EXPECT_EQ(std::nullopt, frame_name(Frame(0)));
}

}  // namespace
}  // namespace migrate
