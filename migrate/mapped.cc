#include "migrate/mapped.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <fstream>
#include <sstream>

#include "base/fd.h"

namespace migrate {
namespace {

/// Calls `see` with the mode ("rw-s") and the path of each mapping of a file. In a box's mount namespace the
/// path begins at the box's root (proc_pid_maps(5)).
template <class See>
void each_mapped_file(pid_t pid, See see) {
  std::ifstream in("/proc/" + std::to_string(pid) + "/maps");
  for (std::string line; std::getline(in, line);) {
    std::istringstream fields(line);
    std::string range, mode, offset, device, inode, path;
    fields >> range >> mode >> offset >> device >> inode >> std::ws;
    std::getline(fields, path);
    if (mode.size() < 4 || !path.starts_with('/')) continue;
    for (size_t at; (at = path.find("\\012")) != std::string::npos;) path.replace(at, 4, "\n");
    see(mode, path.substr(1));
  }
}

/// JSON has one byte for it: so a greeting has room for all paths.
bool is_plain(char c) { return c >= ' ' && c < 0x7f && c != '"' && c != '\\'; }

}  // namespace

std::set<std::pair<dev_t, ino_t>> shared_writable_files(const std::vector<pid_t>& pids, int upper) {
  std::set<std::pair<dev_t, ino_t>> files;
  for (const pid_t pid : pids)
    each_mapped_file(pid, [&](const std::string& mode, const std::string& path) {
      if (mode[1] != 'w' || mode[3] != 's') return;
      const auto fd = base::open_beneath(upper, path, O_PATH | O_NOFOLLOW);
      struct stat s{};
      if (fd && ::fstat(fd->get(), &s) == 0) files.emplace(s.st_dev, s.st_ino);
    });
  return files;
}

std::vector<std::string> mapped_files(const std::vector<pid_t>& pids) {
  std::set<std::string> seen;
  std::vector<std::string> files;
  for (const pid_t pid : pids)
    each_mapped_file(pid, [&](const std::string&, const std::string& path) {
      if (files.size() < kMostMappedFiles && path.size() < 256 && std::ranges::all_of(path, is_plain) &&
          seen.insert(path).second)
        files.push_back(path);
    });
  return files;
}

}  // namespace migrate
