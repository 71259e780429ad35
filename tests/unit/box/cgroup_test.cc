#include "box/cgroup.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <format>
#include <fstream>
#include <string>
#include <vector>

namespace box {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

/// A group below our own, with what the test puts into it.
class CgroupTest : public testing::Test {
 protected:
  static std::string own() {
    std::ifstream in("/proc/self/cgroup");
    for (std::string line; std::getline(in, line);)
      if (line.starts_with("0::")) return cgroup_mount() + line.substr(3);
    return {};
  }
  void SetUp() override { group_.create(); }
  void TearDown() override { group_.kill_and_remove(); }

  const Cgroup group_{std::format("{}/drover-test-{}", own(), ::getpid())};
};

TEST_F(CgroupTest, AProcessThatHasEnded) {
  const pid_t child = ::fork();
  if (child == 0) ::_exit(0);
  ASSERT_EQ(::waitpid(child, nullptr, 0), child);
  EXPECT_FALSE(group_.join(child));
  EXPECT_FALSE(group_.populated());
}

TEST_F(CgroupTest, BornInTheGroup) {
  const pid_t child = group_.fork_into();
  if (child == 0) {
    ::pause();
    ::_exit(0);
  }
  ASSERT_GT(child, 0);
  EXPECT_EQ(group_.pids(), std::vector<pid_t>{child});
  ::kill(child, SIGKILL);
  EXPECT_EQ(::waitpid(child, nullptr, 0), child);
}

/// As beside CRIU, whose programs begin and end in the group all the time.
TEST_F(CgroupTest, WhatEndsMeanwhileNeedsNoEviction) {
  const pid_t child = ::fork();
  if (child == 0) {
    for (;;) {
      const pid_t program = group_.fork_into();
      if (program == 0) ::_exit(0);
      ::waitpid(program, nullptr, 0);
    }
  }
  for (const auto until = Clock::now() + 1s; Clock::now() < until;) EXPECT_NO_THROW(evict_ours(group_));
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
}

}  // namespace
}  // namespace box
