#include "box/last_pid.h"

#include <gtest/gtest.h>
#include <sched.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>

#include "base/error.h"
#include "base/fd.h"
#include "base/mount.h"

namespace box {
namespace {

/// Process 1 of a pid namespace, which does nothing.
class Init {
 public:
  Init() {
    base::Pipe pid = base::make_pipe();
    const pid_t parent = ::fork();
    if (parent == 0) {
      if (::unshare(CLONE_NEWPID) != 0) ::_exit(1);
      const pid_t init = ::fork();
      if (init == 0)
        for (;;) ::pause();
      ::_exit(::write(pid.write.get(), &init, sizeof init) == sizeof init ? 0 : 1);
    }
    pid.write.close();
    if (::read(pid.read.get(), &pid_, sizeof pid_) != sizeof pid_) pid_ = -1;
    ::waitpid(parent, nullptr, 0);
  }
  Init(const Init&) = delete;
  Init& operator=(const Init&) = delete;
  ~Init() {
    if (pid_ > 0) ::kill(pid_, SIGKILL);
  }
  [[nodiscard]] pid_t pid() const { return pid_; }

 private:
  pid_t pid_ = -1;
};

TEST(LastPid, TheNextProcessGetsTheNextOne) {
  const base::TempDir images = base::TempDir::make("/tmp", "last-pid-");
  const Init there, here;
  ASSERT_GT(there.pid(), 0);
  ASSERT_GT(here.pid(), 0);
  base::write_file(images.path() + "/last-pid", "4000");
  restore_last_pid(images.path(), there.pid());
  record_last_pid(images.path(), there.pid());  // takes one itself
  EXPECT_EQ("4001", base::read_file(images.path() + "/last-pid"));
  restore_last_pid(images.path(), here.pid());
  record_last_pid(images.path(), here.pid());
  EXPECT_EQ("4002", base::read_file(images.path() + "/last-pid"));
}

TEST(LastPid, ImagesThatHaveNone) {
  const base::TempDir images = base::TempDir::make("/tmp", "last-pid-");
  const Init init;
  EXPECT_NO_THROW(restore_last_pid(images.path(), init.pid()));
  record_last_pid(images.path(), init.pid());
  EXPECT_EQ("2", base::read_file(images.path() + "/last-pid"));
}

TEST(LastPid, WhatNoPidCanBeIsRefused) {
  const base::TempDir images = base::TempDir::make("/tmp", "last-pid-");
  for (const char* text : {"", "0", "-1", "4194304", "99999999999", "12\n", "0x10", "twelve"}) {
    base::write_file(images.path() + "/last-pid", text);
    try {
      restore_last_pid(images.path(), ::getpid());
      ADD_FAILURE() << text;
    } catch (const base::Error& e) {
      EXPECT_TRUE(e.message().ends_with("is no process number")) << e.message();
    }
  }
}

}  // namespace
}  // namespace box
