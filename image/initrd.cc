#include "image/initrd.h"

#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <set>

#include "base/error.h"
#include "base/fd.h"

namespace image {
namespace {

namespace fs = std::filesystem;

constexpr auto kBetweenLooks = std::chrono::milliseconds(200);
constexpr std::string_view kTrailer = "TRAILER!!!";

/// A cpio archive in memory. Owner root, time 0, inodes by order: nothing in it is of this machine.
class Archive {
 public:
  void add(const std::string& path, unsigned mode, const std::string& content) {
    std::string name = path.substr(path.starts_with('/') ? 1 : 0);
    bytes_ += std::format(
        "070701{:08X}{:08X}{:08X}{:08X}{:08X}{:08X}{:08X}{:08X}{:08X}{:08X}{:08X}{:08X}{:08X}", ++inode_,
        mode, 0, 0, S_ISDIR(mode) ? 2 : 1, 0, content.size(), 0, 0, 0, 0, name.size() + 1, 0);
    bytes_ += name + '\0';
    pad();
    bytes_ += content;
    pad();
  }
  std::string finish() {
    inode_ = 0xffffffff;  // the trailer's is 0
    add(std::string(kTrailer), 0, "");
    bytes_.resize((bytes_.size() + 511) / 512 * 512);
    return std::move(bytes_);
  }

 private:
  void pad() { bytes_.resize((bytes_.size() + 3) / 4 * 4); }
  std::string bytes_;
  uint32_t inode_ = 0;
};

/// What the archive shall hold, under the paths in it; a directory is added before what is in it.
class Content {
 public:
  void file(const std::string& path, const std::string& content, unsigned mode) {
    directories(fs::path(path).parent_path());
    entries_[path] = {S_IFREG | mode, content};
  }
  void link(const std::string& path, const std::string& target) {
    directories(fs::path(path).parent_path());
    entries_[path] = {S_IFLNK | 0777, target};
  }
  void directories(const fs::path& path) {
    if (path.empty() || path == "/" || entries_.contains(path)) return;
    directories(path.parent_path());
    entries_[path] = {S_IFDIR | 0755, ""};
  }
  [[nodiscard]] std::string archive() const {
    Archive archive;
    for (const auto& [path, entry] : entries_) archive.add(path, entry.first, entry.second);
    return archive.finish();
  }

 private:
  std::map<std::string, std::pair<unsigned, std::string>> entries_;
};

/// A path without the end that says how the file is compressed.
std::string plain_name(const std::string& path) {
  for (std::string_view end : {".xz", ".zst"})
    if (path.ends_with(end)) return path.substr(0, path.size() - end.size());
  return path;
}

/// A file without its own compression, which would keep the archive's from working.
std::string unpacked(base::Context& context, const std::string& path, const std::string& work) {
  std::string copy = work + "/unpacked";
  if (path.ends_with(".xz"))
    context.runner.run({.argv = {"sh", "-c", "exec xz --decompress --stdout \"$0\" >\"$1\"", path, copy}});
  else if (path.ends_with(".zst"))
    context.runner.run({.argv = {"zstd", "--decompress", "--quiet", "--force", "-o", copy, path}});
  else
    return base::read_file(path);
  return base::read_file(copy);
}

Content drivers(base::Context& context, const InitrdParts& parts, const std::string& work) {
  Content content;
  for (const char* directory : {"/dev", "/proc", "/run", "/sys", "/sysroot", "/tmp"})
    content.directories(directory);
  std::string list;
  for (const std::string& module : parts.modules) {
    std::string path = plain_name(parts.module_directory + "/" + module);
    content.file(path, unpacked(context, parts.root + parts.module_directory + "/" + module, work), 0644);
    list += path + "\n";
  }
  content.file("/lib/drover-modules", list, 0644);
  for (const std::string& file : parts.firmware) {
    // The kernel looks in /lib/firmware, which in the initrd is no link.
    std::string path = plain_name(file.substr(file.find("/lib/firmware/")));
    std::string source = parts.root + file;
    if (fs::is_symlink(source))
      content.link(path, plain_name(fs::read_symlink(source)));
    else
      content.file(path, unpacked(context, source, work), 0644);
  }
  return content;
}

}  // namespace

Initrd::Initrd(base::Context& context, const InitrdParts& parts, std::string work) : work_(std::move(work)) {
  begin(drivers(context, parts, work_).archive());
  Content program;
  program.file("/init", base::read_file(parts.init), 0755);
  begin(program.archive());
}

void Initrd::begin(const std::string& archive) {
  std::string plain = work_ + "/archive" + std::to_string(packing_.size());
  base::write_file(plain, archive);
  // Early in the boot the kernel unpacks xz only with these checks, and a dictionary of what it can allocate.
  // A higher preset takes half as long again, for a twentieth of the bytes.
  packing_.push_back(base::Child::start(
      {"xz", "--check=crc32", "--threads=1", "--lzma2=preset=4,dict=16MiB", "--force", plain}, -1, -1, -1));
}

void Initrd::finish(const std::string& file) {
  std::string initrd;
  for (size_t i = 0; i < packing_.size(); ++i) {
    std::optional<int> status;
    while (!(status = packing_[i].wait(kBetweenLooks))) base::check_interrupt();
    if (*status != 0) throw base::error("xz cannot compress the initrd: it ended with status {}", *status);
    initrd += base::read_file(std::format("{}/archive{}.xz", work_, i));
  }
  base::write_file(file, initrd);
}

}  // namespace image
