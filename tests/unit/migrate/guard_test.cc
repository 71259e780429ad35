#include "migrate/guard.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <thread>

#include "base/fd.h"
#include "base/mount.h"
#include "tests/unit/migrate/tree_tools.h"

namespace migrate {
namespace {

using namespace std::chrono_literals;

/// A guard with its socket, over a directory that looks like a control group.
class GuardTest : public testing::Test {
 protected:
  void SetUp() override {
    base::write_file(group() + "/cgroup.kill", "");
    ::setenv("PATH", DROVER_BIN_DIR ":/usr/bin:/bin", 1);
  }
  [[nodiscard]] std::string group() const { return directory_.path(); }
  [[nodiscard]] std::string killed() const { return base::read_file(group() + "/cgroup.kill"); }

  base::TempDir directory_ = base::TempDir::make("/var/tmp", "drover-unit-");
};

TEST_F(GuardTest, ADescriptorGoesOver) {
  int pair[2];
  ASSERT_EQ(0, ::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair));
  const base::Fd here(pair[0]), there(pair[1]);
  base::Pipe pipe = base::make_pipe();
  send_descriptor(here.get(), pipe.write.get());
  pipe.write.close();
  {
    const base::Fd got = receive_descriptor(there.get());
    base::write_full(got.get(), "hello", "pipe");
  }
  char text[16];
  EXPECT_EQ(5, ::read(pipe.read.get(), text, sizeof text));
  EXPECT_EQ(0, ::read(pipe.read.get(), text, sizeof text));
  ASSERT_EQ(1, ::send(here.get(), "d", 1, 0));  // and none with it
  EXPECT_EQ("a descriptor was due, and none came",
            error_of([&] { static_cast<void>(receive_descriptor(there.get())); }));
}

TEST_F(GuardTest, ReleasedItLeavesTheBoxAlone) {
  auto [socket, guard] = start_guard(group());
  base::Pipe pipe = base::make_pipe();
  send_descriptor(socket.get(), pipe.write.get());
  pipe.write.close();
  EXPECT_EQ(std::nullopt, guard.wait(100ms));
  char byte;
  ASSERT_EQ(0, ::fcntl(pipe.read.get(), F_SETFL, O_NONBLOCK));
  EXPECT_EQ(-1, ::read(pipe.read.get(), &byte, 1)) << "the guard does not hold it";
  release_guard(socket);
  EXPECT_EQ(0, guard.wait(5s));
  EXPECT_EQ(0, ::read(pipe.read.get(), &byte, 1));
  EXPECT_EQ("", killed());
}

TEST_F(GuardTest, LeftAloneItKillsTheBox) {
  auto [socket, guard] = start_guard(group());
  base::Pipe pipe = base::make_pipe();
  send_descriptor(socket.get(), pipe.write.get());
  EXPECT_EQ(std::nullopt, guard.wait(100ms));
  EXPECT_EQ("", killed());
  socket.close();
  EXPECT_EQ(0, guard.wait(5s));
  EXPECT_EQ("1", killed());
}

TEST_F(GuardTest, WithoutADescriptorThatItWasSentItKillsTheBox) {
  auto [socket, guard] = start_guard(group());
  ASSERT_EQ(1, ::send(socket.get(), "d", 1, MSG_NOSIGNAL));  // as where the kernel has no room for it there
  EXPECT_EQ(0, guard.wait(5s));
  EXPECT_EQ("1", killed());
}

TEST_F(GuardTest, OutlivesWhoeverStartedIt) {
  const pid_t bringer = ::fork();
  if (bringer == 0) {
    try {
      auto [socket, guard] = start_guard(group());
      ::raise(SIGKILL);
    } catch (const base::Error&) {
    }
    ::_exit(1);
  }
  int status = 0;
  ASSERT_EQ(bringer, ::waitpid(bringer, &status, 0));
  EXPECT_TRUE(WIFSIGNALED(status));
  for (int i = 0; i < 500 && killed().empty(); ++i) std::this_thread::sleep_for(10ms);
  EXPECT_EQ("1", killed());
}

TEST_F(GuardTest, IsNotInterrupted) {
  auto [socket, guard] = start_guard(group());
  for (int signal : {SIGINT, SIGTERM, SIGHUP}) ::kill(guard.pid(), signal);
  EXPECT_EQ(std::nullopt, guard.wait(100ms));
  release_guard(socket);
  EXPECT_EQ(0, guard.wait(5s));
  EXPECT_EQ("", killed());
}

TEST_F(GuardTest, DoesNotStartWithoutAGroup) {
  EXPECT_EQ("the guard of the box's memory did not start", error_of([&] { start_guard(group() + "/none"); }));
}

}  // namespace
}  // namespace migrate
