#include "image/data_system.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <filesystem>
#include <set>

#include "base/error.h"
#include "base/fd.h"
#include "image/sparse.h"
#include "image/xfs_times.h"

namespace image {
namespace {

namespace fs = std::filesystem;

constexpr const char* kLabel = "drover-data";

/// The directories of the files, parents first.
std::set<std::string> directories_of(const std::vector<DataFile>& files) {
  std::set<std::string> found;
  for (const DataFile& file : files) {
    for (fs::path path = fs::path(file.path).parent_path(); !path.empty(); path = path.parent_path())
      found.insert(path);
  }
  return found;
}

/// Of a file or directory, whatever the umask is.
void set_mode(const std::string& path, mode_t mode) {
  if (::chmod(path.c_str(), mode) != 0) throw base::sys_error("cannot set the mode of {}", path);
}

/// The files in a directory of their own, with their times.
void stage(const std::vector<DataFile>& files, int64_t clock, const std::string& directory) {
  base::make_directories(directory);
  set_mode(directory, 0755);
  for (const std::string& path : directories_of(files)) {
    base::make_directories(directory + "/" + path);
    set_mode(directory + "/" + path, 0755);
  }
  for (const DataFile& file : files) {
    std::string path = directory + "/" + file.path;
    base::write_file(path, file.content);
    set_mode(path, file.mode);
  }
  const timespec times[2] = {{.tv_sec = clock, .tv_nsec = 0}, {.tv_sec = clock, .tv_nsec = 0}};
  for (const auto& entry : fs::recursive_directory_iterator(directory)) {
    if (::utimensat(AT_FDCWD, entry.path().c_str(), times, 0) != 0)
      throw base::sys_error("cannot set the time of {}", entry.path().string());
  }
}

/// ext4. Quotas of projects limit boxes; they are counted by tune2fs, as mke2fs counts them before it has
/// copied the files (1.47.2).
void make_ext4(base::Context& context, const DiskLayout& layout, const std::vector<DataFile>& files,
               const std::string& scratch, const std::string& file) {
  stage(files, layout.clock, scratch + "/data");
  std::string uuid = data_uuid(layout);
  // The inodes' number and size are those of a large disk, as that is what it grows to.
  context.runner.run({.argv = {"mke2fs",
                               "-t",
                               "ext4",
                               "-q",
                               "-F",
                               "-b",
                               "4096",
                               "-i",
                               "16384",
                               "-I",
                               "256",
                               "-O",
                               "project",
                               "-U",
                               uuid,
                               "-L",
                               kLabel,
                               "-E",
                               "root_owner=0:0,lazy_itable_init=0,lazy_journal_init=0,hash_seed=" + uuid,
                               "-d",
                               scratch + "/data",
                               file},
                      .env = {{"SOURCE_DATE_EPOCH", std::to_string(layout.clock)}}});
  std::string owners;  // root's, whoever builds
  for (const std::string& path : directories_of(files))
    owners += std::format("sif /{0} uid 0\nsif /{0} gid 0\n", path);
  for (const DataFile& data : files) owners += std::format("sif /{0} uid 0\nsif /{0} gid 0\n", data.path);
  context.runner.run({.argv = {"debugfs", "-w", "-f", "-", file},
                      .env = {{"SOURCE_DATE_EPOCH", std::to_string(layout.clock)}},
                      .input = owners});
  context.runner.run({.argv = {"tune2fs", "-Q", "prjquota", file},
                      .env = {{"SOURCE_DATE_EPOCH", std::to_string(layout.clock)}}});
}

/// A "protofile" of mkfs.xfs(8) for what stands directly in `directory`.
std::string proto(const std::vector<DataFile>& files, const std::set<std::string>& directories,
                  const std::string& scratch, const fs::path& directory) {
  std::string text;
  for (const std::string& path : directories) {
    if (fs::path(path).parent_path() == directory)
      text += std::format("{} d--755 0 0\n{}", fs::path(path).filename().string(),
                          proto(files, directories, scratch, path));
  }
  for (const DataFile& file : files) {
    if (fs::path(file.path).parent_path() == directory)
      text += std::format("{} ---{:03o} 0 0 {}/data/{}\n", fs::path(file.path).filename().string(), file.mode,
                          scratch, file.path);
  }
  return text + "$\n";
}

void make_xfs(base::Context& context, const DiskLayout& layout, const std::vector<DataFile>& files,
              const std::string& scratch, const std::string& file) {
  stage(files, layout.clock, scratch + "/data");
  base::write_file(scratch + "/proto",
                   "-\n0 0\nd--755 0 0\n" + proto(files, directories_of(files), scratch, {}));
  context.runner.run({.argv = {"mkfs.xfs", "-q", "-f", "-m", "uuid=" + data_uuid(layout), "-L", kLabel, "-p",
                               scratch + "/proto", file}});
  settle_xfs_inodes(file, layout.clock);
}

}  // namespace

void make_data_system(base::Context& context, const DiskLayout& layout, const std::vector<DataFile>& files,
                      const std::string& scratch, const std::string& file) {
  make_sparse(file, layout.data_bytes);
  (layout.data_file_system == "xfs" ? make_xfs : make_ext4)(context, layout, files, scratch, file);
}

}  // namespace image
