#include <gtest/gtest.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <thread>

#include "templates/store.h"
#include "tests/unit/templates/samples.h"

namespace templates {
namespace {

struct Ends {
  Ends() {
    int pair[2];
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0) throw base::sys_error("socketpair");
    near = base::Fd(pair[0]);
    far = base::Fd(pair[1]);
  }
  base::Fd near, far;
};

class TransferTest : public testing::Test {
 protected:
  TransferTest() {
    ::signal(SIGPIPE, SIG_IGN);  // as main does
    std::string big(3 << 20, 'x');
    for (size_t i = 0; i < big.size(); i += 100) big[i] = static_cast<char>(i / 100);
    os_ = from_.add_layer(big);
    app_ = from_.add_layer("an application");
    from_.add_version("redis", "2026112101", {os_, app_});
    trust();
  }

  void trust() {
    base::make_directories(to_.path() + "/keys");
    base::write_file(to_.path() + "/keys/builder.pub", base::read_file(from_.path() + "/keys/local.pub"));
  }

  /// Both ends; what they threw, and the bytes that were sent.
  struct Outcome {
    std::string sender, receiver;
    uint64_t bytes = 0;
  };
  Outcome transfer() {
    Ends ends;
    Outcome outcome;
    std::thread receiver([&] {
      TestContext test;
      outcome.receiver = thrown([&] { receive(test.context, to_.store(), ends.far.get(), ends.far.get()); });
      ends.far.close();
    });
    TestContext test;
    outcome.sender = thrown([&] {
      outcome.bytes = send_missing(test.context, from_.store(), "redis", ends.near.get(), ends.near.get());
    });
    ends.near.close();
    receiver.join();
    return outcome;
  }

  /// What the receiver throws when these bytes arrive and then nothing more.
  std::string receive_bytes(std::string_view bytes) {
    Ends ends;
    std::thread sender([&] {
      (void)!::send(ends.near.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
      ::shutdown(ends.near.get(), SHUT_WR);
    });
    TestContext test;
    std::string error = thrown([&] { receive(test.context, to_.store(), ends.far.get(), ends.far.get()); });
    sender.join();
    return error;
  }

  TestStore from_, to_;
  Layer os_, app_;
};

TEST_F(TransferTest, BringsWhatIsMissingAndNoMore) {
  Outcome first = transfer();
  EXPECT_EQ(first.sender + first.receiver, "");
  EXPECT_EQ(first.bytes, os_.bytes + app_.bytes);
  EXPECT_EQ(to_.store().resolve("redis"), from_.store().resolve("redis"));
  EXPECT_NO_THROW(to_.store().verify_layer(os_));
  EXPECT_EQ(transfer().bytes, 0u) << "all is there";
  base::remove_tree(to_.store().layer_path(app_.digest));
  EXPECT_EQ(transfer().bytes, app_.bytes);
}

TEST_F(TransferTest, LeavesTheStreamForWhoComesNext) {
  Ends ends;
  std::thread receiver([&] {
    TestContext test;
    receive(test.context, to_.store(), ends.far.get(), ends.far.get());
    char next[5] = {};
    EXPECT_EQ(::recv(ends.far.get(), next, 4, MSG_WAITALL), 4);
    EXPECT_STREQ(next, "next");
  });
  TestContext test;
  send_missing(test.context, from_.store(), "redis", ends.near.get(), ends.near.get());
  base::write_full(ends.near.get(), "next", "socket");
  receiver.join();
}

TEST_F(TransferTest, ALayerThatIsDamagedAtTheSourceIsNotTaken) {
  std::string path = from_.store().layer_path(os_.digest), text = base::read_file(path);
  text.back() = 'y';
  ASSERT_EQ(::chmod(path.c_str(), 0644), 0);
  base::write_file(path, text);
  Outcome outcome = transfer();
  EXPECT_TRUE(outcome.receiver.contains("layer " + os_.digest + " arrived damaged")) << outcome.receiver;
  EXPECT_TRUE(outcome.sender.contains("the other end refused: layer " + os_.digest)) << outcome.sender;
  EXPECT_FALSE(to_.store().has_layer(os_));
  EXPECT_EQ(to_.store().find("redis"), std::nullopt);
}

TEST_F(TransferTest, AnUntrustedSenderIsRefusedBeforeAnyLayer) {
  base::remove_tree(to_.path() + "/keys/builder.pub");
  Outcome outcome = transfer();
  EXPECT_TRUE(
      outcome.sender.contains("refused: the template that arrives is not signed by a key that is trusted"))
      << outcome.sender;
  EXPECT_TRUE(outcome.sender.contains("local.pub")) << "the hint comes along: " << outcome.sender;
  EXPECT_FALSE(base::exists(to_.path() + "/layers"));
}

TEST_F(TransferTest, WholeLayersOfABrokenTransferAreKept) {
  base::remove_tree(from_.store().layer_path(app_.digest));
  Outcome outcome = transfer();
  EXPECT_TRUE(outcome.sender.contains("layer " + app_.digest + " is missing")) << outcome.sender;
  EXPECT_TRUE(outcome.receiver.contains("the other end went away")) << outcome.receiver;
  EXPECT_TRUE(to_.store().has_layer(os_));
  EXPECT_EQ(to_.store().find("redis"), std::nullopt);
  EXPECT_EQ(to_.store().gc(0, {}).scratch, 0u) << "no half files";
}

TEST_F(TransferTest, NonsenseIsRefused) {
  EXPECT_TRUE(receive_bytes("").contains("went away"));
  EXPECT_TRUE(receive_bytes("Welcome to Debian!\n").contains("does not speak drover's template stream"));
  EXPECT_TRUE(receive_bytes({"\x01\xff\xff\xff\xff", 5}).contains("does not speak")) << "longer than allowed";
  EXPECT_TRUE(receive_bytes({"\x01\x08\0\0\0drovtpl2", 13}).contains("does not speak")) << "another version";
  EXPECT_TRUE(receive_bytes({"\x01\x0a\0\0\0drovtpl1\x01\0", 15}).contains("too short"));
  EXPECT_TRUE(receive_bytes({"\x01\x0e\0\0\0drovtpl1\xff\xff\xff\xff{}", 19}).contains("too short"));
  EXPECT_TRUE(receive_bytes({"\x01\x0e\0\0\0drovtpl1\x02\0\0\0{}", 19}).contains("not in minisign's format"));
  EXPECT_TRUE(receive_bytes({"\xff\x04\0\0\0no\x1b\n", 9}).contains("the other end refused: no  \n"))
      << "without what could steer a terminal";
  EXPECT_EQ(to_.store().versions().size(), 0u);
}

TEST_F(TransferTest, ASenderIsNotLedToOtherFiles) {
  for (std::string_view want :
       {std::string_view("\x10\x02\0\0\0\x02\0", 7), std::string_view("\x10\x04\0\0\0\0\0\0\0", 9),
        std::string_view("\x10\x01\0\0\0\0", 6)}) {
    Ends ends;
    base::write_full(ends.far.get(), want, "socket");
    TestContext test;
    std::string error =
        thrown([&] { send_missing(test.context, from_.store(), "redis", ends.near.get(), ends.near.get()); });
    EXPECT_TRUE(error.contains("not offered") || error.contains("too short")) << error;
  }
}

}  // namespace
}  // namespace templates
