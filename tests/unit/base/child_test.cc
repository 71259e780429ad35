#include "base/child.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "base/mount.h"

namespace base {
namespace {

using namespace std::chrono_literals;

Error error_of(const Command& command) {
  try {
    ProcessRunner().run(command);
  } catch (const Error& e) {
    return e;
  }
  return Error("no error");
}

Command shell(const std::string& script) { return {.argv = {"sh", "-c", script}}; }

/// Whether the process ends before the deadline; it need not be our child.
bool ends(pid_t pid) {
  Fd pidfd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  if (!pidfd) return errno == ESRCH;
  pollfd process = {.fd = pidfd.get(), .events = POLLIN, .revents = 0};
  return ::poll(&process, 1, 10'000) == 1;
}

TEST(Runner, GivesStdinAndTakesBothStreams) {
  Result result = ProcessRunner().run({.argv = {"sh", "-c", "cat; echo talk >&2"}, .input = "data"});
  EXPECT_EQ(result.status, 0);
  EXPECT_EQ(result.out, "data");
  EXPECT_EQ(result.err, "talk\n");
}

TEST(Runner, DoesNotDeadlockOnMuchOfEverything) {
  std::string input(3 << 20, 'i');
  Result result = ProcessRunner().run(
      {.argv = {"sh", "-c", "head -c 300000 /dev/zero >&2; cat; head -c 300000 /dev/zero >&2"},
       .input = input});
  EXPECT_TRUE(result.out == input);
  EXPECT_EQ(result.err.size(), 64u << 10);
}

TEST(Runner, AProgramThatDoesNotReadItsStdinIsNoFailure) {
  EXPECT_EQ(ProcessRunner().run({.argv = {"true"}, .input = std::string(1 << 20, 'x')}).status, 0);
}

TEST(Runner, KeepsTheEndOfStderr) {
  Result result = ProcessRunner().run(shell("head -c 100000 /dev/zero >&2; printf end >&2"));
  EXPECT_TRUE(result.err.ends_with("end"));
}

TEST(Runner, TooMuchStdoutIsAnError) {
  Error e = error_of({.argv = {"yes"}});
  EXPECT_EQ(e.message(), "yes wrote more than 64 MiB");
}

TEST(Runner, EnvironmentAndDirectory) {
  Result result = ProcessRunner().run({.argv = {"sh", "-c", "echo $ADDED $HOME; pwd"},
                                       .env = {{"ADDED", "a"}, {"HOME", "/h"}},
                                       .cwd = "/usr"});
  EXPECT_EQ(result.out, "a /h\n/usr\n");
}

TEST(Runner, StdoutGoesToADescriptor) {
  Pipe pipe = make_pipe();
  Command command = shell("echo there");
  command.stdout_fd = pipe.write.get();
  EXPECT_EQ(ProcessRunner().run(command).out, "");
  pipe.write.close();
  std::array<std::byte, 16> bytes;
  EXPECT_EQ(read_full(pipe.read.get(), bytes), 6u);
}

TEST(Runner, StandardStreamsOfOursThatAreClosed) {
  // The pipes then get the numbers 0 to 2, which dup2 must not overwrite before it used them.
  pid_t pid = ::fork();
  if (pid == 0) {
    ::close(0);
    ::close(1);
    ::close(2);
    Result result = ProcessRunner().run_any({.argv = {"sh", "-c", "cat; echo talk >&2"}, .input = "data"});
    ::_exit(result.out == "data" && result.err == "talk\n" ? 0 : 1);
  }
  int status = -1;
  ASSERT_EQ(::waitpid(pid, &status, 0), pid);
  EXPECT_EQ(status, 0);
}

TEST(Runner, AFailureTellsStatusCommandAndTheLastLines) {
  Error e = error_of(shell("for i in 1 2 3 4 5 6; do echo line $i >&2; done; exit 7"));
  EXPECT_EQ(e.message(), "sh failed (exit 7)\n    line 2\n    line 3\n    line 4\n    line 5\n    line 6");
  EXPECT_EQ(e.contexts(), std::vector<std::string>{
                              "running: sh -c 'for i in 1 2 3 4 5 6; do echo line $i >&2; done; exit 7'"});
}

TEST(Runner, AProgramsWordsCannotSteerTheTerminal) {
  Error e = error_of(shell("printf 'a\\033[2Jb\\r\\n' >&2; exit 1"));
  EXPECT_EQ(e.message(), "sh failed (exit 1)\n    a [2Jb ");
}

TEST(Runner, ASignal) {
  EXPECT_EQ(error_of(shell("kill -SEGV $$")).message(), "sh failed (killed by SIGSEGV)");
  EXPECT_EQ(ProcessRunner().run_any(shell("kill -SEGV $$")).status, 128 + SIGSEGV);
}

TEST(Runner, RunAnyReturnsTheStatus) { EXPECT_EQ(ProcessRunner().run_any(shell("exit 7")).status, 7); }

TEST(Runner, AMissingProgram) {
  Error e = error_of({.argv = {"drover-no-such-program", "x"}});
  EXPECT_EQ(e.message(), "cannot run drover-no-such-program: No such file or directory");
  EXPECT_EQ(e.hint(), "install the package that has drover-no-such-program, or put it on PATH");
  EXPECT_EQ(error_of({.argv = {"/nowhere/x"}}).message(), "cannot run /nowhere/x: No such file or directory");
  EXPECT_EQ(error_of({.argv = {"/dev/null"}}).message(), "cannot run /dev/null: Permission denied");
  EXPECT_THROW(ProcessRunner().run_any({.argv = {"/nowhere/x"}}), Error);
}

TEST(Runner, AMissingDirectory) {
  Error e = error_of({.argv = {"true"}, .cwd = "/nowhere"});
  EXPECT_EQ(e.message(), "cannot run true: it could not enter its directory: No such file or directory");
}

TEST(Runner, TheDeadlineEndsWhatTheCommandStartedToo) {
  TempDir directory = TempDir::make("/tmp", "drover-unit-");
  std::string file = directory.path() + "/pid";
  Command command = shell("sleep 1000 & echo $! >" + file + "; wait");
  command.timeout = 300ms;
  EXPECT_EQ(error_of(command).message(), "sh did not end within 0.3 s");
  EXPECT_TRUE(ends(std::stoi(read_file(file))));
}

TEST(Runner, TheDeadlineKillsWhatDoesNotHearTerm) {
  Command command = shell("trap '' TERM; echo deaf >&2; sleep 1000 & wait; sleep 1000");
  command.timeout = 300ms;
  EXPECT_EQ(error_of(command).message(), "sh did not end within 0.3 s\n    deaf");
}

TEST(Runner, TheDeadlineHoldsForWhatNeverFallsSilent) {
  Command command = shell("yes >&2");
  command.timeout = 300ms;
  EXPECT_TRUE(error_of(command).message().starts_with("sh did not end within 0.3 s\n    y"));
}

TEST(Runner, DoesNotWaitForWhatTheCommandLeftBehind) {
  Command command = shell("sleep 20 & echo $!");
  command.timeout = 10s;  // sleep holds our pipes for longer
  pid_t left = std::stoi(ProcessRunner().run(command).out);
  EXPECT_EQ(::kill(left, SIGKILL), 0) << "it was gone already";
}

TEST(Runner, ChildrenHaveDefaultSignalsAndNoOtherDescriptors) {
  ::signal(SIGPIPE, SIG_IGN);
  sigset_t blocked;
  sigemptyset(&blocked);
  sigaddset(&blocked, SIGTERM);
  ::sigprocmask(SIG_BLOCK, &blocked, nullptr);
  int inheritable = ::dup(0);
  std::string status = ProcessRunner().run({.argv = {"cat", "/proc/self/status"}}).out;
  std::string open = ProcessRunner().run(shell("echo /proc/self/fd/*")).out;
  ::close(inheritable);
  ::sigprocmask(SIG_UNBLOCK, &blocked, nullptr);
  ::signal(SIGPIPE, SIG_DFL);
  EXPECT_TRUE(status.contains("SigBlk:\t0000000000000000")) << status;
  EXPECT_TRUE(status.contains("SigIgn:\t0000000000000000")) << status;
  // 3 is the directory that the shell reads.
  EXPECT_EQ(open, "/proc/self/fd/0 /proc/self/fd/1 /proc/self/fd/2 /proc/self/fd/3\n");
}

TEST(Child, RunsBesideUs) {
  Pipe in = make_pipe(), out = make_pipe();
  Child cat = Child::start({"cat"}, in.read.get(), out.write.get(), -1);
  EXPECT_EQ(cat.wait(0ms), std::nullopt);
  write_full(in.write.get(), "hello", "a pipe");
  std::array<std::byte, 5> bytes;
  EXPECT_EQ(read_full(out.read.get(), bytes), 5u);
  in.write.close();
  EXPECT_EQ(cat.wait(10s), 0);
  EXPECT_EQ(cat.wait(0ms), 0);
  EXPECT_EQ(cat.pid(), -1);
}

TEST(Child, ItsDestructorEndsIt) {
  pid_t pid = -1;
  {
    Child sleep = Child::start({"sleep", "1000"}, -1, -1, -1);
    pid = sleep.pid();
    EXPECT_EQ(::kill(pid, 0), 0);
  }
  EXPECT_EQ(::kill(pid, 0), -1);
  EXPECT_EQ(errno, ESRCH);
}

TEST(Child, AMoveEndsTheOneThatWasThere) {
  Child a = Child::start({"sleep", "1000"}, -1, -1, -1);
  Child b = Child::start({"sleep", "1000"}, -1, -1, -1);
  pid_t first = a.pid(), second = b.pid();
  a = std::move(b);
  EXPECT_EQ(a.pid(), second);
  EXPECT_EQ(::kill(first, 0), -1);
  EXPECT_EQ(::kill(second, 0), 0);
  EXPECT_EQ(a.wait(0ms), std::nullopt);
}

TEST(Child, TellsASignalAsShellsDo) {
  Child child = Child::start({"sleep", "1000"}, -1, -1, -1);
  ::kill(child.pid(), SIGUSR1);
  EXPECT_EQ(child.wait(10s), 128 + SIGUSR1);
}

TEST(Child, DiesWithUs) {
  Pipe pipe = make_pipe();
  pid_t parent = ::fork();
  if (parent == 0) {
    Child sleep = Child::start({"sleep", "1000"}, -1, -1, -1);
    write_full(pipe.write.get(), std::to_string(sleep.pid()) + "\n", "a pipe");
    pipe.write.close();
    ::pause();
  }
  pipe.write.close();
  std::array<std::byte, 16> digits = {};
  read_full(pipe.read.get(), std::span(digits).first(1));
  ASSERT_EQ(::kill(parent, SIGKILL), 0);
  read_full(pipe.read.get(), std::span(digits).subspan(1));
  EXPECT_TRUE(ends(std::stoi(reinterpret_cast<const char*>(digits.data()))));
  ::waitpid(parent, nullptr, 0);
}

TEST(Quoted, AsAPersonWouldTypeIt) {
  EXPECT_EQ(quoted({"mount", "-o", "a=b,c", "/x y", "it's", ""}), "mount -o a=b,c '/x y' 'it'\\''s' ''");
}

}  // namespace
}  // namespace base
