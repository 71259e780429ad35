#include "migrate/open_files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <climits>
#include <cstring>

#include "base/fd.h"
#include "migrate/layer_paths.h"
#include "migrate/tree_walk.h"

namespace migrate {

std::optional<FileSet> files_open_for_writing(const std::vector<pid_t>& pids, int upper) {
  FileSet files;
  LayerPaths paths(upper);
  for (pid_t pid : pids) {
    auto directory = base::open_if_exists("/proc/" + std::to_string(pid) + "/fd", O_RDONLY | O_DIRECTORY);
    std::string names;
    if (!directory || !read_names(directory->get(), names)) continue;  // it has ended, and closed its files
    for (size_t at = 0; at < names.size(); at += std::strlen(&names[at]) + 1) {
      struct stat link, file;
      // The link's mode is how the file was opened (proc(5)).
      if (::fstatat(directory->get(), &names[at], &link, AT_SYMLINK_NOFOLLOW) != 0 ||
          (link.st_mode & S_IWUSR) == 0 || ::fstatat(directory->get(), &names[at], &file, 0) != 0 ||
          !S_ISREG(file.st_mode) || file.st_nlink == 0)
        continue;
      std::array<char, PATH_MAX> buffer;
      const ssize_t length = ::readlinkat(directory->get(), &names[at], buffer.data(), buffer.size());
      if (length <= 0) continue;
      const std::string path(buffer.data(), static_cast<size_t>(length));
      if (!path.starts_with('/')) continue;  // memfd and the like
      if (path.ends_with(" (deleted)") || path.size() == buffer.size()) return std::nullopt;
      if (!paths.find(pid, path, files)) return std::nullopt;
    }
  }
  return files;
}

}  // namespace migrate
