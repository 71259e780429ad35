#include <sys/mman.h>
#include <sys/xattr.h>

#include <atomic>
#include <chrono>
#include <filesystem>
#include <format>
#include <random>
#include <thread>

#include "migrate/tree_scan.h"
#include "tests/unit/base/namespace.h"
#include "tests/unit/migrate/tree_tools.h"

namespace migrate {
namespace {

/// Changes a tree at random, through paths below `root`. Calls that fail (no such file, not a directory)
/// are part of it.
class Vandal {
 public:
  Vandal(std::string root, uint64_t seed, bool maps) : root_(std::move(root)), random_(seed), maps_(maps) {}
  Vandal(const Vandal&) = delete;
  Vandal& operator=(const Vandal&) = delete;
  ~Vandal() {
    for (char* mapping : mappings_) ::munmap(mapping, kMapped);
  }

  void act() {
    std::string path = some_path(), other = some_path();
    switch (below(22)) {
      case 0:
      case 1:
      case 2:
        ::mkdir(path.c_str(), 0700 + below(0100));
        break;
      case 3:
      case 4:
        create(path);
        break;
      case 5:
        overwrite(path, O_WRONLY);
        break;
      case 6:
        overwrite(path, O_WRONLY | O_APPEND);
        break;
      case 7:
        (void)!::truncate(path.c_str(), below(300'000));
        break;
      case 8:
        ::unlink(path.c_str());
        break;
      case 9:
        remove(path);
        break;
      case 10:
      case 11:
        ::rename(path.c_str(), other.c_str());
        break;
      case 12:
      case 13:
        (void)!::link(path.c_str(), other.c_str());
        break;
      case 14:
        (void)!::symlink(other.c_str(), path.c_str());
        break;
      case 15:
        ::mknod(path.c_str(), below(2) ? S_IFCHR : S_IFIFO | 0600, 0);
        break;
      case 16:
        (void)!::lchown(path.c_str(), below(70'000), below(70'000));
        break;
      case 17:
        if (!is_symlink(path)) ::chmod(path.c_str(), below(010000));
        break;
      case 18:
        ::lsetxattr(path.c_str(), below(2) ? "trusted.a" : "user.b", path.data(), below(path.size()), 0);
        break;
      case 19:
        ::lremovexattr(path.c_str(), "trusted.a");
        break;
      case 20:
        set_times(path);
        break;
      default:
        map();
        break;
    }
    if (!mappings_.empty()) mappings_[below(mappings_.size())][below(kMapped)] = static_cast<char>(random_());
  }

  /// Files that may change without an event.
  [[nodiscard]] FileSet mapped() const {
    FileSet files;
    struct stat status;
    for (const base::Fd& file : mapped_)
      if (::fstat(file.get(), &status) == 0) files.emplace(status.st_dev, status.st_ino);
    return files;
  }

  [[nodiscard]] uint32_t below(size_t end) { return static_cast<uint32_t>(random_() % end); }

 private:
  static constexpr size_t kMapped = 16 << 10;

  std::string some_path() {
    std::string path = root_;
    for (size_t depth = 1 + below(3); depth > 0; --depth)
      path += "/" + std::string(1, static_cast<char>('a' + below(5)));
    return path;
  }
  static bool is_symlink(const std::string& path) {
    struct stat status;
    return ::lstat(path.c_str(), &status) != 0 || S_ISLNK(status.st_mode);
  }
  static void remove(const std::string& path) {
    try {
      base::remove_tree(path);
    } catch (const std::exception&) {
      // A part of the path is no directory.
    }
  }
  void create(const std::string& path) {
    base::Fd file(
        ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC, 0644));
    if (!file) return;
    std::string text(below(20'000), static_cast<char>(random_()));
    for (size_t extents = below(4); extents > 0; --extents)
      (void)!::pwrite(file.get(), text.data(), text.size(), static_cast<off_t>(below(2 << 20)));
  }
  void overwrite(const std::string& path, int flags) {
    base::Fd file(::open(path.c_str(), flags | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC));
    std::string text(below(5'000), static_cast<char>(random_()));
    if (file) (void)!::pwrite(file.get(), text.data(), text.size(), static_cast<off_t>(below(10'000)));
  }
  void set_times(const std::string& path) {
    timespec times[2];
    for (timespec& time : times)
      time = {.tv_sec = static_cast<time_t>(below(4'000'000'000)),
              .tv_nsec = static_cast<long>(below(1'000'000'000))};
    ::utimensat(AT_FDCWD, path.c_str(), times, AT_SYMLINK_NOFOLLOW);
  }
  /// Files of their own names: a store into a mapping whose file was cut short is a SIGBUS.
  void map() {
    if (!maps_ || mappings_.size() > 4) return;
    std::string path = std::format("{}/mapped{}", root_, mappings_.size());
    base::Fd file = base::open(path, O_RDWR | O_CREAT);
    if (::ftruncate(file.get(), kMapped) != 0) throw base::sys_error("ftruncate");
    void* at = ::mmap(nullptr, kMapped, PROT_READ | PROT_WRITE, MAP_SHARED, file.get(), 0);
    if (at == MAP_FAILED) return;
    mappings_.push_back(static_cast<char*>(at));
    mapped_.push_back(std::move(file));
  }

  std::string root_;
  std::mt19937_64 random_;
  bool maps_;
  std::vector<char*> mappings_;
  std::vector<base::Fd> mapped_;
};

/// Lines of dump_tree() less what is behind this word.
std::map<std::string, std::string> without(const std::string& word,
                                           std::map<std::string, std::string> lines) {
  for (auto& [name, line] : lines)
    if (size_t at = line.find(word); at != line.npos) line.erase(at, line.find(' ', at + word.size()) - at);
  return lines;
}

/// What a snapshot says of each name, its access time left out.
void list(const TreeSnapshot& tree, uint32_t at, const std::string& path,
          std::map<std::string, std::string>& lines) {
  const TreeSnapshot::Node& node = tree.node(at);
  if (node.absent) return;
  lines[path] = node.whiteout ? "whiteout"
                              : std::format("ino {} mode {:o} ctime {} mtime {} size {} linked {}", node.ino,
                                            node.mode, node.ctime_ns, node.mtime_ns, node.size, node.linked);
  if (!S_ISDIR(node.mode)) return;
  for (uint32_t child = node.first; child < node.first + node.count; ++child)
    list(tree, child, path + "/" + std::string(tree.name(tree.node(child))), lines);
}

class TreeRandom : public TreeTest {
 protected:
  void start_over() {
    watch_.reset();
    overlay_.reset();
    for (const char* name : {"from", "to", "work", "lower", "box"}) {
      base::remove_tree(in(name));
      base::make_directories(in(name));
    }
    last_ = {};
  }
  [[nodiscard]] std::string in(const std::string& name) const { return directory_.path() + "/" + name; }
  void watch() {
    base::Fd root = base::open(from(), O_RDONLY | O_DIRECTORY);
    watch_ = ChangeWatch::start(root.get());
    ASSERT_TRUE(watch_);
  }
  /// A box over a template that has something under the names that a Vandal uses. Returns its root.
  std::string make_box(uint64_t seed) {
    {
      Vandal builder(in("lower"), seed + 1'000'000, false);
      for (int i = 0; i < 60; ++i) builder.act();
    }
    for (const char* name : {"lower/a", "lower/c"}) {
      std::filesystem::remove_all(in(name));
      base::make_directories(in(name) + "/b");
      base::write_file(in(name) + "/b/e", "of the template");
    }
    break_links(in("lower"));
    overlay_ =
        base::Mount::make("overlay", in("box"), "overlay", 0,
                          std::format("lowerdir={},upperdir={},workdir={},xino=on,index=on,nfs_export=on",
                                      in("lower"), in("from"), in("work")));
    return in("box");
  }
  /// Layers have no hard links (the sender refuses what would tear apart), and no device nodes.
  static void break_links(const std::string& path) {
    for (const auto& entry : std::filesystem::directory_iterator(path)) {
      struct stat status;
      if (::lstat(entry.path().c_str(), &status) != 0) throw base::sys_error("lstat");
      if (S_ISDIR(status.st_mode)) break_links(entry.path());
      if (S_ISCHR(status.st_mode) || (!S_ISDIR(status.st_mode) && status.st_nlink > 1))
        ::unlink(entry.path().c_str());
    }
  }
  /// One round by what was watched, checked against a look at everything.
  void watched_round(bool final, const Vandal& vandal) {
    const bool whole = last_.empty();
    TreeStats stats = round({.final = final, .watch = watch_.get(), .open = vandal.mapped()});
    base::Fd root = base::open(from(), O_RDONLY | O_DIRECTORY);
    TreeSnapshot scanned = scan_tree(root.get(), true, {});
    std::map<std::string, std::string> want, got;
    list(scanned, 0, "", want);
    list(last_, 0, "", got);
    for (const auto& [name, line] : want)
      if (name.starts_with("/mapped")) got[name] = line;  // moved by syncfs(2)
    ASSERT_EQ("", difference(want, got));
    looked_at_ += whole ? 0 : stats.scanned;
    there_were_ += whole ? 0 : scanned.size();
  }
  /// Access times aside: reads move them, and no watch tells of it. Number of links aside, where overlayfs
  /// has some of its own, in its index.
  [[nodiscard]] std::string trees_differ_but_for_atimes() const {
    auto want = without(" atime ", dump_tree(from())), got = without(" atime ", dump_tree(to()));
    return overlay_ ? difference(without(" links ", want), without(" links ", got)) : difference(want, got);
  }

  std::unique_ptr<ChangeWatch> watch_;
  std::optional<base::Mount> overlay_;
  size_t looked_at_ = 0, there_were_ = 0;
};

TEST_F(TreeRandom, AnyChangesBetweenRoundsArrive) {
  for (uint64_t seed = 0; seed < 300; ++seed) {
    start_over();
    // Nothing writes during a round, so it may be final: faster, but blind for stores into pages that
    // are dirty already.
    bool live = seed % 4 == 0;
    Vandal vandal(from(), seed, live);
    for (size_t rounds = vandal.below(3); rounds > 0; --rounds) {
      for (size_t acts = 5 + vandal.below(40); acts > 0; --acts) vandal.act();
      round({.final = !live});
    }
    for (size_t acts = vandal.below(20); acts > 0; --acts) vandal.act();
    final_round();
    ASSERT_EQ("", trees_differ()) << "seed " << seed;
  }
}

TEST_F(TreeRandom, AnyChangesWhileItIsReadArrive) {
  for (uint64_t seed = 0; seed < 12; ++seed) {
    start_over();
    Vandal vandal(from(), seed, true);
    for (int i = 0; i < 300; ++i) vandal.act();
    std::atomic<bool> done = false;
    std::thread writer([&] {
      while (!done) vandal.act();
    });
    for (int i = 0; i < 4; ++i) round();
    done = true;
    writer.join();
    final_round();
    ASSERT_EQ("", trees_differ()) << "seed " << seed;
  }
}

TEST_F(TreeRandom, AnyChangesThatWereWatchedArrive) {
  for (uint64_t seed = 0; seed < 300; ++seed) {
    start_over();
    watch();
    bool live = seed % 4 == 0;
    Vandal vandal(from(), seed, live);
    for (size_t rounds = 1 + vandal.below(4); rounds > 0; --rounds) {
      for (size_t acts = 5 + vandal.below(40); acts > 0; --acts) vandal.act();
      ASSERT_NO_FATAL_FAILURE(watched_round(!live, vandal)) << "seed " << seed;
    }
    for (size_t acts = vandal.below(6); acts > 0; --acts) vandal.act();
    ASSERT_NO_FATAL_FAILURE(watched_round(true, vandal)) << "seed " << seed;
    ASSERT_EQ("", trees_differ_but_for_atimes()) << "seed " << seed;
  }
  EXPECT_LT(looked_at_, there_were_);
}

TEST_F(TreeRandom, AnyChangesOfABoxThatWereWatchedArrive) {
  base::enter_mount_namespace();
  for (uint64_t seed = 0; seed < 60; ++seed) {
    start_over();
    Vandal vandal(make_box(seed), seed, false);
    watch();
    for (size_t rounds = 1 + vandal.below(4); rounds > 0; --rounds) {
      for (size_t acts = 5 + vandal.below(40); acts > 0; --acts) vandal.act();
      ASSERT_NO_FATAL_FAILURE(watched_round(true, vandal)) << "seed " << seed;
    }
    for (size_t acts = vandal.below(6); acts > 0; --acts) vandal.act();
    ASSERT_NO_FATAL_FAILURE(watched_round(true, vandal)) << "seed " << seed;
    ASSERT_EQ("", trees_differ_but_for_atimes()) << "seed " << seed;
  }
  EXPECT_LT(looked_at_, there_were_);
}

TEST_F(TreeRandom, WhereTheWatchIsBlindEverythingIsLookedAt) {
  watch();
  Vandal vandal(from(), 1, true);
  for (int i = 0; i < 300; ++i) vandal.act();
  round({.watch = watch_.get(), .open = vandal.mapped()});
  for (int i = 0; i < 20; ++i) vandal.act();
  // What has just been written is looked at again in any case.
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  const TreeStats blind = round({.watch = watch_.get(), .open = std::nullopt});
  const base::Fd root = base::open(from(), O_RDONLY | O_DIRECTORY);
  EXPECT_EQ(scan_tree(root.get(), true, {}).size(), blind.scanned);
  EXPECT_EQ("", trees_differ_but_for_atimes());
  ASSERT_NO_FATAL_FAILURE(watched_round(false, vandal));
  EXPECT_LT(looked_at_, there_were_) << "it is watched again";
  for (int i = 0; i < 20; ++i) vandal.act();
  ASSERT_NO_FATAL_FAILURE(watched_round(true, vandal));
  EXPECT_EQ("", trees_differ_but_for_atimes());
}

TEST_F(TreeRandom, AnyChangesWhileItIsReadThatWereWatchedArrive) {
  for (uint64_t seed = 0; seed < 12; ++seed) {
    start_over();
    watch();
    Vandal vandal(from(), seed, true);
    for (int i = 0; i < 300; ++i) vandal.act();
    const FileSet mapped = vandal.mapped();
    std::atomic<bool> done = false;
    std::thread writer([&] {
      while (!done) vandal.act();
    });
    for (int i = 0; i < 6; ++i) round({.watch = watch_.get(), .open = mapped});
    done = true;
    writer.join();
    ASSERT_NO_FATAL_FAILURE(watched_round(true, vandal)) << "seed " << seed;
    ASSERT_EQ("", trees_differ_but_for_atimes()) << "seed " << seed;
  }
}

}  // namespace
}  // namespace migrate
