#include "base/fd.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <format>

#include "base/error.h"
#include "base/mount.h"

namespace base {
namespace {

std::string message_of(auto body) {
  try {
    body();
  } catch (const Error& e) {
    return e.message();
  }
  return "no error";
}

class FdTest : public testing::Test {
 protected:
  [[nodiscard]] std::string in(const std::string& name) const { return directory_.path() + "/" + name; }
  TempDir directory_ = TempDir::make("/tmp", "drover-unit-");
};

bool is_open(int fd) { return ::fcntl(fd, F_GETFD) >= 0; }

TEST_F(FdTest, ClosesOnceAndMoves) {
  Fd a = open("/dev/null", O_RDONLY);
  int number = a.get();
  Fd b = std::move(a);
  EXPECT_FALSE(a);  // NOLINT(bugprone-use-after-move): that is what is tested
  EXPECT_EQ(b.get(), number);
  b = open("/dev/zero", O_RDONLY);
  EXPECT_FALSE(is_open(number));
  number = b.get();
  b.close();
  EXPECT_FALSE(is_open(number));
}

TEST_F(FdTest, EveryDescriptorIsCloseOnExec) {
  Pipe pipe = make_pipe();
  Fd copy = duplicate(pipe.read.get());
  Fd file = open("/dev/null", O_RDONLY);
  for (int fd : {pipe.read.get(), pipe.write.get(), copy.get(), file.get()})
    EXPECT_TRUE(::fcntl(fd, F_GETFD) & FD_CLOEXEC);
}

TEST(Fd, OfAProcessThatHasEnded) {
  const pid_t child = ::fork();
  if (child == 0) ::_exit(0);
  siginfo_t info{};
  ASSERT_EQ(
      0, ::waitid(P_PID, static_cast<id_t>(child), &info, WEXITED | WNOWAIT));  // a zombie, with a /proc/PID
  EXPECT_EQ(open_if_exists(std::format("/proc/{}/pagemap", child), O_RDONLY), std::nullopt);
  EXPECT_EQ(read_file_if_exists(std::format("/proc/{}/pagemap", child)), std::nullopt);
  EXPECT_EQ(::waitpid(child, nullptr, 0), child);
}

TEST_F(FdTest, OpenNamesThePath) {
  EXPECT_EQ(message_of([] { std::ignore = open("/nowhere/x", O_RDONLY); }),
            "cannot open /nowhere/x: No such file or directory");
  EXPECT_EQ(open_if_exists("/nowhere/x", O_RDONLY), std::nullopt);
  EXPECT_EQ(message_of([] { open_if_exists("/dev/null/x", O_RDONLY); }),
            "cannot open /dev/null/x: Not a directory");
}

TEST_F(FdTest, ReadFullCrossesShortReads) {
  Pipe pipe = make_pipe();
  write_full(pipe.write.get(), "one", "a pipe");
  write_full(pipe.write.get(), "two", "a pipe");
  pipe.write.close();
  std::array<std::byte, 10> bytes;
  EXPECT_EQ(read_full(pipe.read.get(), bytes), 6u);
  EXPECT_EQ(read_full(pipe.read.get(), bytes), 0u);
}

TEST_F(FdTest, ReadAndWriteErrorsNameTheFile) {
  std::array<std::byte, 1> byte;
  Fd directory = open(directory_.path(), O_RDONLY);
  EXPECT_EQ(message_of([&] { read_full(directory.get(), byte); }),
            "cannot read " + directory_.path() + ": Is a directory");
  Fd full = open("/dev/full", O_WRONLY);
  EXPECT_EQ(message_of([&] { write_full(full.get(), "x", "/dev/full"); }),
            "cannot write /dev/full: No space left on device");
}

TEST_F(FdTest, ReadFileKeepsTheLimit) {
  std::string text(200'000, 'x');
  write_file(in("file"), text);
  EXPECT_EQ(read_file(in("file"), text.size()), text);
  EXPECT_EQ(message_of([&] { read_file(in("file"), text.size() - 1); }),
            in("file") + " is larger than the 199999 bytes that are allowed");
  EXPECT_EQ(read_file_if_exists(in("none")), std::nullopt);
  EXPECT_NE(read_file("/proc/self/status"), "");  // whose size is given as 0
}

TEST_F(FdTest, WriteFileCutsWhatWasThere) {
  write_file(in("file"), "a long text");
  write_file(in("file"), "short");
  EXPECT_EQ(read_file(in("file")), "short");
}

TEST_F(FdTest, WriteAtomicallyReplacesAndSetsTheMode) {
  write_file_atomically(in("file"), "old");
  Fd old = open(in("file"), O_RDONLY);
  write_file_atomically(in("file"), "new", 0600);
  EXPECT_EQ(read_file(in("file")), "new");
  struct stat status;
  ASSERT_EQ(::stat(in("file").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 07777, 0600u);
  // Whoever had the old file open still reads the old bytes: it was replaced, not rewritten.
  std::array<std::byte, 3> bytes;
  ASSERT_EQ(read_full(old.get(), bytes), 3u);
  EXPECT_EQ(static_cast<char>(bytes[0]), 'o');
}

TEST_F(FdTest, AFailedAtomicWriteLeavesNothingBehind) {
  make_directories(in("target/full"));  // rename onto a directory fails
  EXPECT_EQ(message_of([&] { write_file_atomically(in("target"), "x"); }),
            "cannot replace " + in("target") + ": Is a directory");
  auto entries = std::filesystem::directory_iterator(directory_.path());
  EXPECT_EQ(std::distance(begin(entries), end(entries)), 1);
}

TEST_F(FdTest, MakeDirectories) {
  make_directories(in("a/b//c/"));
  make_directories(in("a/b/c"));
  EXPECT_TRUE(std::filesystem::is_directory(in("a/b/c")));
  write_file(in("a/file"), "");
  EXPECT_EQ(message_of([&] { make_directories(in("a/file/x")); }),
            "cannot create directory " + in("a/file/x") + ": Not a directory");
  EXPECT_EQ(message_of([&] { make_directories(in("a/file")); }),
            "cannot create directory " + in("a/file") + ": Not a directory");
}

TEST_F(FdTest, ExistsSeesADanglingSymlink) {
  ASSERT_EQ(::symlink("/nowhere", in("link").c_str()), 0);
  EXPECT_TRUE(exists(in("link")));
  EXPECT_FALSE(exists(in("link2")));
  EXPECT_FALSE(exists("/dev/null/x"));
}

}  // namespace
}  // namespace base
