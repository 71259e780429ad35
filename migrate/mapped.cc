#include "migrate/mapped.h"

#include <sys/stat.h>

#include <algorithm>
#include <fstream>
#include <map>
#include <set>
#include <sstream>
#include <utility>

#include "migrate/layer_paths.h"

namespace migrate {
namespace {

/// Calls `see` with the addresses, the mode ("rw-s") and the path of each mapping of a file
/// (proc_pid_maps(5)).
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
    see(range, mode, path);
  }
}

std::string link_of(pid_t pid, const std::string& range) {
  return "/proc/" + std::to_string(pid) + "/map_files/" + range;
}

/// Whether the mapped file has no name in any directory: shared memory, or a deleted file. CRIU has its
/// content.
bool is_nameless(pid_t pid, const std::string& range, const std::string& path) {
  if (!path.ends_with(" (deleted)")) return false;
  struct stat file{};
  return ::stat(link_of(pid, range).c_str(), &file) == 0 && file.st_nlink == 0;
}

/// JSON has one byte for it: so a greeting has room for all paths.
bool is_plain(char c) { return c >= ' ' && c < 0x7f && c != '"' && c != '\\'; }

}  // namespace

std::optional<FileSet> shared_writable_files(const std::vector<pid_t>& pids, int upper) {
  FileSet files;
  LayerPaths paths(upper);
  bool all_known = true;
  for (const pid_t pid : pids)
    each_mapped_file(pid, [&](const std::string& range, const std::string& mode, const std::string& path) {
      if (mode[1] != 'w' || mode[3] != 's' || is_nameless(pid, range, path)) return;
      if (path.ends_with(" (deleted)") || !paths.find(pid, path, files)) all_known = false;
    });
  return all_known ? std::optional(std::move(files)) : std::nullopt;
}

uint64_t shared_writable_bytes(const std::vector<pid_t>& pids) {
  std::map<std::pair<dev_t, ino_t>, uint64_t> files;
  for (const pid_t pid : pids)
    each_mapped_file(pid, [&](const std::string& range, const std::string& mode, const std::string&) {
      struct stat file{};
      if (mode[1] == 'w' && mode[3] == 's' && ::stat(link_of(pid, range).c_str(), &file) == 0 &&
          S_ISREG(file.st_mode) && file.st_nlink > 0)
        files[{file.st_dev, file.st_ino}] = static_cast<uint64_t>(file.st_blocks) * 512;
    });
  uint64_t total = 0;
  for (const auto& [file, bytes] : files) total += bytes;
  return total;
}

std::vector<std::string> mapped_files(const std::vector<pid_t>& pids) {
  std::set<std::string> seen;
  std::vector<std::string> files;
  for (const pid_t pid : pids)
    each_mapped_file(pid, [&](const std::string&, const std::string&, const std::string& whole) {
      const std::string path = whole.substr(1);
      if (files.size() < kMostMappedFiles && path.size() < 256 && std::ranges::all_of(path, is_plain) &&
          seen.insert(path).second)
        files.push_back(path);
    });
  return files;
}

}  // namespace migrate
