#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "base/fd.h"

namespace migrate {

/// A name as messages show it: what a terminal could take amiss as \xNN.
std::string shown_name(std::string_view name);

/// Opens `name` in `dir`. Never follows a symlink, enters a mount, or leaves `dir`; empty with
/// errno set when it cannot.
base::Fd open_beneath(int dir, const char* name, int flags, mode_t mode = 0);

/// Where a walk through a tree is: the directories from the root down. They are opened when
/// somebody needs them, and few stay open however deep they nest: the last 64, and every 64th
/// above those to come back by.
class DirChain {
 public:
  explicit DirChain(int root) : root_(root) {}  ///< borrowed

  void enter(std::string_view name);
  void leave() { levels_.pop_back(); }
  [[nodiscard]] size_t depth() const { return levels_.size(); }

  [[nodiscard]] const std::string& name(size_t level) const { return levels_[level].name; }

  /// The directory where the walk is, or the one `depth` levels below the root; -1 with errno set when
  /// it cannot be opened. Valid until the next call.
  int try_fd() { return try_fd(depth()); }
  int try_fd(size_t depth);
  /// The same, but an Error that names it.
  int fd();

  /// `name` in the current directory, from the root, for messages.
  [[nodiscard]] std::string path(std::string_view name = {}) const;

 private:
  static constexpr size_t kStep = 64;
  struct Level {
    std::string name;
    base::Fd fd;
  };
  int root_;
  std::vector<Level> levels_;
};

/// Removes `name` from `dir`, with all that is below. `path` is for the message.
void remove_entry(int dir, const char* name, const std::string& path);

/// Appends the names in a directory, "." and ".." left out, each with its NUL. False with errno set: not
/// all could be read.
bool read_names(int dir, std::string& out);

}  // namespace migrate
