#include "rootfs/erofs.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include "base/error.h"
#include "base/fd.h"
#include "base/hash.h"
#include "rootfs/parts.h"

namespace rootfs {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kBlock = 4096;
/// An inode, its name and its extended attributes.
constexpr uint64_t kMostOfAnEntry = 512;

/// mkfs.erofs (1.8.6) does not end when it cannot write: it waits for itself.
void require_space(const std::string& directory, uint64_t bytes, const std::string& hint) {
  struct statvfs status;
  if (::statvfs(directory.c_str(), &status) != 0) throw base::sys_error("cannot look at {}", directory);
  if (uint64_t free = status.f_bavail * status.f_frsize; free < bytes)
    throw base::error("no space left in {}: an image of up to {} is to be written, {} are free", directory,
                      base::human_size(bytes), base::human_size(free))
        .hint(hint);
}

}  // namespace

std::vector<std::string> paths_below(const std::string& root) {
  std::vector<std::string> paths;
  for (const auto& entry : fs::recursive_directory_iterator(root)) paths.push_back(entry.path());
  std::ranges::reverse(paths);
  return paths;
}

TreeSize settle(const std::string& root, int64_t clock) {
  TreeSize size;
  std::vector<std::string> paths = paths_below(root);
  paths.push_back(root);
  for (const std::string& path : paths) {
    struct stat status;
    if (::lstat(path.c_str(), &status) != 0) throw base::sys_error("cannot look at {}", path);
    if (S_ISSOCK(status.st_mode)) {
      fs::remove(path);
      continue;
    }
    if (status.st_uid > kLastId || status.st_gid > kLastId)
      throw base::error("{} belongs to {}:{}, but a box and a node only have the ids up to {}",
                        path.substr(root.size()), status.st_uid, status.st_gid, kLastId)
          .hint("give it to another user in the definition's commands");
    uint64_t bytes = S_ISREG(status.st_mode) ? static_cast<uint64_t>(status.st_size) / status.st_nlink : 0;
    size.bytes += bytes;
    size.most_packed += (bytes + kBlock - 1) / kBlock * kBlock + kMostOfAnEntry;
    if (status.st_mtim.tv_sec < clock) continue;
    const timespec times[2] = {{.tv_sec = clock, .tv_nsec = 0}, {.tv_sec = clock, .tv_nsec = 0}};
    if (::utimensat(AT_FDCWD, path.c_str(), times, AT_SYMLINK_NOFOLLOW) != 0)
      throw base::sys_error("cannot set the time of {}", path);
  }
  return size;
}

void make_erofs(base::Context& context, const Erofs& erofs, uint64_t most, const std::string& file) {
  require_space(fs::path(file).parent_path(), most, erofs.no_space_hint);
  base::Phase phase(context.progress, "pack");
  // With that variable it would have other times than those that -T asks for.
  std::vector<std::string> argv = {"env",
                                   "--unset=SOURCE_DATE_EPOCH",
                                   "mkfs.erofs",
                                   "--quiet",
                                   "-d1",
                                   "-z" + erofs.compression,
                                   std::format("-C{}", erofs.cluster),
                                   std::format("-T{}", erofs.clock),
                                   "--mkfs-time",
                                   "-U" + erofs.uuid};
  argv.insert(argv.end(), erofs.more.begin(), erofs.more.end());
  argv.insert(argv.end(), {file, erofs.root});
  context.runner.run({.argv = argv, .timeout = std::chrono::minutes(30)});
}

std::string uuid_from(const std::string& seed) {
  std::string hex = base::sha256_hex(seed);
  return std::format("{}-{}-4{}-8{}-{}", hex.substr(0, 8), hex.substr(8, 4), hex.substr(12, 3),
                     hex.substr(15, 3), hex.substr(18, 12));
}

}  // namespace rootfs
