#include "tests/unit/migrate/tree_tools.h"

#include <dirent.h>
#include <sys/xattr.h>

#include <algorithm>
#include <format>

#include "base/hash.h"

namespace migrate {
namespace {

std::string shown(std::string_view bytes) {
  std::string text;
  for (unsigned char c : bytes)
    text += c < 0x20 || c >= 0x7f ? std::format("%{:02x}", c) : std::string(1, static_cast<char>(c));
  return text;
}

/// The part of the attributes that is to arrive: what belongs to one overlay mount is not.
std::string xattrs(const std::string& path) {
  std::string names(64 << 10, '\0'), value(64 << 10, '\0');
  ssize_t size = ::llistxattr(path.c_str(), names.data(), names.size());
  if (size < 0) throw base::sys_error("llistxattr {}", path);
  std::vector<std::string> lines;
  for (const char* name = names.data(); name < names.data() + size; name += std::strlen(name) + 1) {
    static const std::vector<std::string> left_behind = {"origin", "impure", "nlink",
                                                         "upper",  "uuid",   "index"};
    if (std::ranges::any_of(left_behind, [&](const auto& n) { return "trusted.overlay." + n == name; }))
      continue;
    ssize_t got = ::lgetxattr(path.c_str(), name, value.data(), value.size());
    if (got < 0) throw base::sys_error("lgetxattr {}", path);
    lines.push_back(std::format(" {}={}", name,
                                base::sha256_hex(value.substr(0, static_cast<size_t>(got))).substr(0, 16)));
  }
  std::ranges::sort(lines);
  std::string text;
  for (const auto& line : lines) text += line;
  return text;
}

std::string content(const std::string& path, off_t size) {
  base::Fd file = base::open(path, O_RDONLY | O_NOATIME);
  std::string map, buffer(1 << 20, '\0');
  base::Sha256 hash;
  for (off_t at = 0; at < size;) {
    off_t data = ::lseek(file.get(), at, SEEK_DATA);
    if (data < 0) break;
    off_t hole = ::lseek(file.get(), data, SEEK_HOLE);
    map += std::format(" {}+{}", data, hole - data);
    for (at = data; at < hole;) {
      ssize_t got = ::pread(file.get(), buffer.data(), std::min<size_t>(buffer.size(), hole - at), at);
      if (got <= 0) throw base::sys_error("pread {}", path);
      hash.add(std::as_bytes(std::span(buffer).first(static_cast<size_t>(got))));
      at += got;
    }
  }
  return std::format("data{} {}", map, hash.hex().substr(0, 16));
}

class Dump {
 public:
  explicit Dump(std::string but) : but_(std::move(but)) {}
  std::map<std::string, std::string> lines;

  void look(const std::string& path, const std::string& name) {
    if (name == but_) return;
    std::string target(4096, '\0');
    ssize_t length =
        ::readlink(path.c_str(), target.data(), target.size());  // first, because it moves the atime
    struct stat s;
    if (::lstat(path.c_str(), &s) != 0) throw base::sys_error("lstat {}", path);
    if (S_ISCHR(s.st_mode) && s.st_rdev == 0) {  // a whiteout: nobody ever sees its metadata
      lines[name] = "whiteout";
      return;
    }
    auto time = [](const timespec& t) { return std::format("{}.{:09}", t.tv_sec, t.tv_nsec); };
    std::string line =
        std::format("mode {:o} owner {}:{} mtime {}", s.st_mode, s.st_uid, s.st_gid, time(s.st_mtim));
    if (length < 0) line += " atime " + time(s.st_atim);
    if (length >= 0) line += " to " + shown(target.substr(0, static_cast<size_t>(length)));
    if (S_ISREG(s.st_mode)) line += std::format(" size {} {}", s.st_size, content(path, s.st_size));
    if (S_ISCHR(s.st_mode) || S_ISBLK(s.st_mode)) line += std::format(" device {:x}", s.st_rdev);
    if (!S_ISDIR(s.st_mode))
      line += std::format(" links {} first {}", s.st_nlink, first_.emplace(s.st_ino, name).first->second);
    lines[name] = line + xattrs(path);
    if (S_ISDIR(s.st_mode)) below(path, name);
  }

 private:
  void below(const std::string& path, const std::string& name) {
    base::Fd fd = base::open(path, O_RDONLY | O_DIRECTORY | O_NOATIME);
    DIR* directory = ::fdopendir(fd.release());
    std::vector<std::string> names;
    while (const dirent* entry = ::readdir(directory)) names.emplace_back(entry->d_name);
    ::closedir(directory);
    std::ranges::sort(names);  // so that the first name of a file is the same in both trees
    for (const auto& child : names)
      if (child != "." && child != "..") look(path + "/" + child, name + "/" + shown(child));
  }
  std::string but_;
  std::map<ino_t, std::string> first_;
};

}  // namespace

std::map<std::string, std::string> dump_tree(const std::string& root, const std::string& but) {
  Dump dump(but);
  dump.look(root.ends_with('/') ? root.substr(0, root.size() - 1) : root, "");
  return std::move(dump.lines);
}

std::string difference(const std::map<std::string, std::string>& want,
                       const std::map<std::string, std::string>& got) {
  std::string text;
  for (const auto& [name, line] : want) {
    auto found = got.find(name);
    if (found == got.end())
      text += std::format("missing {}: {}\n", name, line);
    else if (found->second != line)
      text += std::format("{}\n  want {}\n  got  {}\n", name, line, found->second);
  }
  for (const auto& [name, line] : got)
    if (!want.contains(name)) text += std::format("too much: {}: {}\n", name, line);
  return text;
}

}  // namespace migrate
