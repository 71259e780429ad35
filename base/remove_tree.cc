#include <dirent.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <filesystem>
#include <memory>
#include <vector>

#include "base/error.h"
#include "base/fd.h"

namespace base {
namespace {

/// Removes a tree with one descriptor open at a time, however deep it is: down by
/// name, up by "..". Whoever can write in the tree cannot lead it elsewhere: no
/// symlink is followed, no mount is entered (bind mounts of the same file system
/// included), and ".." must be the directory that we came from.
class TreeRemover {
 public:
  explicit TreeRemover(const std::filesystem::path& root)
      : parent_(root.parent_path()),
        here_(open(parent_.empty() ? "." : parent_.string(), O_PATH | O_DIRECTORY)) {
    levels_.push_back({.name = parent_, .identity = identity(here_), .directories = {}});
    remove(root.filename());
  }

  void run() {
    while (levels_.size() > 1 || !levels_.back().directories.empty()) {
      if (levels_.back().directories.empty()) {
        leave();
      } else {
        std::string name = std::move(levels_.back().directories.back());
        levels_.back().directories.pop_back();
        enter(std::move(name));
      }
    }
  }

 private:
  using Identity = std::pair<dev_t, ino_t>;
  struct Level {
    std::string name;
    Identity identity;
    std::vector<std::string> directories;  ///< those in it that are still there
  };

  static Identity identity(const Fd& fd) {
    struct stat status;
    if (::fstat(fd.get(), &status) != 0) throw sys_error("cannot look at a directory");
    return {status.st_dev, status.st_ino};
  }

  [[nodiscard]] std::string path(const std::string& name) const {
    std::filesystem::path path;
    for (const Level& level : levels_) path /= level.name;
    return path / name;
  }

  /// Removes one entry of the current directory; keeps a directory for later.
  void remove(const std::string& name) {
    if (::unlinkat(here_.get(), name.c_str(), 0) == 0 || errno == ENOENT) return;
    if (errno != EISDIR) throw sys_error("cannot remove {}", path(name));
    levels_.back().directories.push_back(name);
  }

  void enter(std::string name) {
    struct open_how how = {};
    how.flags = O_RDONLY | O_DIRECTORY | O_CLOEXEC;
    how.resolve = RESOLVE_NO_XDEV | RESOLVE_NO_SYMLINKS;
    Fd directory(static_cast<int>(::syscall(SYS_openat2, here_.get(), name.c_str(), &how, sizeof how)));
    if (!directory && errno == EXDEV)
      throw error("cannot remove {}: something is mounted there", path(name))
          .hint("unmount it first: umount " + path(name));
    if (!directory && errno == ENOENT) return;  // somebody else is removing the same tree
    if (!directory) throw sys_error("cannot remove {}", path(name));
    here_ = std::move(directory);
    levels_.push_back({.name = std::move(name), .identity = identity(here_), .directories = {}});
    for (const std::string& entry : entries()) remove(entry);
  }

  void leave() {
    std::string name = std::move(levels_.back().name);
    levels_.pop_back();
    here_ = open_at(here_.get(), "..", O_PATH | O_DIRECTORY);
    if (identity(here_) != levels_.back().identity)
      throw error("cannot remove {}: it was moved meanwhile", path(name));
    if (::unlinkat(here_.get(), name.c_str(), AT_REMOVEDIR) != 0 && errno != ENOENT)
      throw sys_error("cannot remove {}", path(name));
  }

  [[nodiscard]] std::vector<std::string> entries() const {
    std::unique_ptr<DIR, decltype([](DIR* d) { ::closedir(d); })> stream(
        ::fdopendir(duplicate(here_.get()).release()));
    if (!stream) throw sys_error("cannot read directory {}", path(""));
    std::vector<std::string> names;
    while (true) {
      errno = 0;
      const dirent* entry = ::readdir(stream.get());
      if (entry == nullptr && errno != 0) throw sys_error("cannot read directory {}", path(""));
      if (entry == nullptr) return names;
      std::string name = entry->d_name;
      if (name != "." && name != "..") names.push_back(std::move(name));
    }
  }

  std::filesystem::path parent_;
  Fd here_;
  std::vector<Level> levels_;  ///< the first is where the tree hangs
};

}  // namespace

void remove_tree(const std::string& path) {
  std::filesystem::path root(path);
  if (!root.has_filename()) root = root.parent_path();  // "a/b/" is a/b
  if (!root.has_filename() || root.filename() == "." || root.filename() == "..")
    throw error("refusing to remove \"{}\": name the directory itself", path);
  if (exists(root)) TreeRemover(root).run();
}

}  // namespace base
