#include "migrate/open_files.h"

#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/syscall.h>

#include "migrate/mapped.h"
#include "tests/unit/migrate/boxed.h"
#include "tests/unit/migrate/tree_tools.h"

namespace migrate {
namespace {

/// A process whose root is the test's directory, which stands for the private layer as well.
class OpenFiles : public TreeTest {
 protected:
  /// Runs `body` there, as far as its step().
  void run(const std::function<void(Boxed&)>& body) {
    process_.emplace([this, body](Boxed& boxed) {
      const std::string root = to();
      // What this process has inherited, such as a log that its output goes to, is no file of a box.
      const base::Fd null = base::open("/dev/null", O_RDWR);
      for (int fd = 0; fd < 1024; ++fd)
        if (struct stat status{}; ::fstat(fd, &status) == 0 && S_ISREG(status.st_mode))
          ::dup2(null.get(), fd);
      if (::unshare(CLONE_NEWNS) != 0 || ::mount("", "/", "", MS_REC | MS_PRIVATE, "") != 0 ||
          ::chdir(root.c_str()) != 0 || ::syscall(SYS_pivot_root, ".", ".") != 0 ||
          ::umount2(".", MNT_DETACH) != 0)
        return 1;
      body(boxed);
      return 0;
    });
    ASSERT_TRUE(process_->wait_step());
  }
  void go_on() { ASSERT_TRUE(process_->next()); }

  [[nodiscard]] std::optional<FileSet> open_ones() const {
    return files_open_for_writing({process_->pid(), 1 << 30}, layer_.get());
  }
  [[nodiscard]] std::optional<FileSet> mapped_ones() const {
    return shared_writable_files({process_->pid(), 1 << 30}, layer_.get());
  }
  [[nodiscard]] std::pair<dev_t, ino_t> identity(const std::string& name) const {
    struct stat status{};
    if (::stat(to(name).c_str(), &status) != 0) throw base::sys_error("stat");
    return {status.st_dev, status.st_ino};
  }
  static base::Fd open(const char* name, int flags) { return base::open(name, flags | O_CREAT, 0600); }
  /// Shared and writable, and the descriptor closed.
  static void* map(const char* name) {
    const base::Fd file = open(name, O_RDWR);
    void* at = ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file.get(), 0);
    if (::ftruncate(file.get(), 4096) != 0 || at == MAP_FAILED) ::_exit(98);
    return at;
  }

 private:
  base::Mount root_ = base::Mount::make("none", to(), "tmpfs", 0);
  base::Fd layer_ = base::open(to(), O_RDONLY | O_DIRECTORY);
  std::optional<Boxed> process_;
};

TEST_F(OpenFiles, ThoseOpenForWriting) {
  run([](Boxed& at) {
    base::Fd read = open("read", O_RDONLY), write = open("write", O_WRONLY), both = open("both", O_RDWR);
    at.step();
    both.close();
    at.step();
    ::rename("write", "moved");
    at.step();
  });
  EXPECT_EQ((FileSet{identity("write"), identity("both")}), open_ones());
  go_on();
  EXPECT_EQ((FileSet{identity("write")}), open_ones());
  go_on();
  EXPECT_EQ((FileSet{identity("moved")}), open_ones());
}

TEST_F(OpenFiles, OneThatHasLostItsNameButNotAll) {
  run([](Boxed& at) {
    base::Fd file = open("first", O_RDWR);
    map("first");
    ::link("first", "second");
    ::unlink("first");
    at.step();
    ::unlink("second");  // now it is in nobody's tree
    at.step();
  });
  EXPECT_EQ(std::nullopt, open_ones());
  EXPECT_EQ(std::nullopt, mapped_ones());
  go_on();
  EXPECT_EQ(FileSet(), open_ones());
  EXPECT_EQ(FileSet(), mapped_ones());
}

TEST_F(OpenFiles, BelowABindMount) {
  run([](Boxed& at) {
    for (const char* name : {"stored", "stored/deep", "seen"}) ::mkdir(name, 0755);
    base::Fd made = open("one", O_RDWR);
    made = open("seen/file", O_RDWR);  // hidden by what comes
    ::mount("stored/deep", "seen", "", MS_BIND, "");
    base::Fd there = open("seen/file", O_RDWR), other = open("one", O_RDONLY);
    map("seen/mapped");
    made = open("mounted", O_RDWR);
    made.close();
    ::mount("one", "mounted", "", MS_BIND, "");
    base::Fd file = open("mounted", O_WRONLY);
    at.step();
  });
  EXPECT_EQ((FileSet{identity("stored/deep/file"), identity("one")}), open_ones());
  EXPECT_EQ((FileSet{identity("stored/deep/mapped")}), mapped_ones());
}

TEST_F(OpenFiles, OnAnotherFileSystem) {
  run([](Boxed& at) {
    ::mkdir("tmp", 0755);
    base::Fd made = open("tmp/file", O_RDWR);
    made.close();
    ::mount("none", "tmp", "tmpfs", 0, "size=1m");
    base::Fd file = open("tmp/file", O_RDWR);
    map("tmp/file");
    at.step();
  });
  EXPECT_EQ(FileSet(), open_ones());
  EXPECT_EQ(FileSet(), mapped_ones());
}

TEST_F(OpenFiles, MappedSharedAndWritable) {
  run([](Boxed& at) {
    map("shared");
    const base::Fd file = open("private", O_RDWR);
    if (::ftruncate(file.get(), 4096) != 0) ::_exit(98);
    ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, file.get(), 0);
    ::mmap(nullptr, 4096, PROT_READ, MAP_SHARED, open("read", O_RDONLY).get(), 0);
    ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    at.step();
  });
  EXPECT_EQ((FileSet{identity("shared")}), mapped_ones());
}

TEST_F(OpenFiles, OfAProcessWithARootOfItsOwnNobodyCanTell) {
  run([](Boxed& at) {
    ::mkdir("jail", 0755);
    base::Fd file = open("jail/file", O_RDWR);
    at.step();
    if (::chroot("jail") != 0) ::_exit(98);
    at.step();
  });
  go_on();
  EXPECT_EQ(std::nullopt, open_ones());
}

}  // namespace
}  // namespace migrate
