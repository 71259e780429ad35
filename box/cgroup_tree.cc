#include "box/cgroup_tree.h"

#include <dirent.h>
#include <fcntl.h>
#include <nlohmann/json.hpp>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <fstream>
#include <memory>
#include <sstream>

#include "base/error.h"
#include "base/fd.h"
#include "base/log.h"
#include "box/config.h"

namespace box {
namespace {

using Json = nlohmann::ordered_json;

// What a box may have set (Linux, Documentation/admin-guide/cgroup-v2.rst), in an order in which it can be
// set again. Those of the box's own group are the node's business.
constexpr auto kValues = std::to_array<const char*>(
    {"cgroup.max.depth", "cgroup.max.descendants", "cpuset.cpus", "cpuset.mems", "cpu.weight", "cpu.idle",
     "cpu.max", "io.weight", "memory.min", "memory.low", "memory.high", "memory.max", "memory.swap.high",
     "memory.swap.max", "memory.zswap.max", "memory.oom.group", "pids.max"});
constexpr const char* kControllers = "cgroup.subtree_control";

constexpr size_t kMostGroups = 4096;
constexpr size_t kMostPath = 4096;

std::string place_of(const Cgroup& top, const std::string& path) {
  return path.empty() ? top.dir() : top.dir() + "/" + path;
}

/// Names are the box's: any byte but '/', NUL and LF. What is no plain letter becomes %XX.
std::string escape(std::string_view raw) {
  std::string out;
  for (const char c : raw) {
    if (c > ' ' && c < 0x7f && c != '%')
      out += c;
    else
      out += std::format("%{:02x}", static_cast<unsigned char>(c));
  }
  return out;
}

std::string unescape(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      out += text[i];
      continue;
    }
    constexpr std::string_view kHex = "0123456789abcdef";
    const size_t high = i + 2 < text.size() ? kHex.find(text[i + 1]) : std::string_view::npos;
    const size_t low = i + 2 < text.size() ? kHex.find(text[i + 2]) : std::string_view::npos;
    if (high == std::string_view::npos || low == std::string_view::npos)
      throw base::error("the box's control groups have a name that is no name: {}", text);
    out += static_cast<char>(high * 16 + low);
    i += 2;
  }
  return out;
}

std::string trimmed(std::string text) {
  while (!text.empty() && (text.back() == '\n' || text.back() == ' ')) text.pop_back();
  return text;
}

CgroupTree::Owner in_box(const struct stat& s, uint32_t id_base) {
  // What is not the box's on the node is its root's at the other one.
  auto inner = [&](uint32_t id) { return id >= id_base && id - id_base < kIdCount ? id - id_base : 0; };
  return {inner(s.st_uid), inner(s.st_gid)};
}

std::map<std::string, std::string> user_xattrs(const std::string& path) {
  std::array<char, 64 << 10> names{}, value{};
  std::map<std::string, std::string> out;
  const ssize_t n = ::listxattr(path.c_str(), names.data(), names.size());
  if (n < 0) {
    if (errno == ENOTSUP) return out;
    throw base::sys_error("cannot read the attributes of {}", path);
  }
  for (const char* name = names.data(); name < names.data() + n; name += std::strlen(name) + 1) {
    if (!std::string_view(name).starts_with("user.")) continue;
    const ssize_t size = ::getxattr(path.c_str(), name, value.data(), value.size());
    if (size < 0) throw base::sys_error("cannot read {} of {}", name, path);
    out[name] = std::string(value.data(), static_cast<size_t>(size));
  }
  return out;
}

/// What makes a group one that cannot be made again; empty when nothing does.
std::string hindrance(const std::string& dir, bool top) {
  if (const auto type = base::read_file_if_exists(dir + "/cgroup.type"); type && trimmed(*type) != "domain")
    return "is " + trimmed(*type);
  if (top) return {};
  if (const auto frozen = base::read_file_if_exists(dir + "/cgroup.freeze");
      frozen && trimmed(*frozen) == "1")
    return "was frozen by the box itself";
  return {};
}

void require_possible(const Cgroup& top, const std::string& path) {
  if (const std::string problem = hindrance(place_of(top, path), path.empty()); !problem.empty())
    throw base::error("the box's control group {} {}, which cannot be moved", "/" + escape(path), problem)
        .hint("threaded groups and frozen ones stay where they are: thaw or remove it in the box");
}

CgroupTree::Group record_group(const Cgroup& top, const std::string& path, uint32_t id_base) {
  const std::string dir = place_of(top, path);
  CgroupTree::Group group;
  group.path = path;
  std::ifstream procs(dir + "/cgroup.procs");
  for (pid_t pid; procs >> pid;)
    if (const pid_t inner = pid_in_box(pid); inner != 0) group.pids.push_back(inner);
  group.values[kControllers] = trimmed(base::read_file(dir + "/" + kControllers));
  struct stat s{};
  if (::stat(dir.c_str(), &s) != 0) throw base::sys_error("cannot look at {}", dir);
  group.mode = s.st_mode & 07777;
  group.owner = in_box(s, id_base);
  group.xattrs = user_xattrs(dir);
  if (path.empty()) return group;  // its files are the node's, which gives the box some of them

  for (const char* file : kValues)
    if (auto value = base::read_file_if_exists(dir + "/" + file)) group.values[file] = trimmed(*value);
  std::unique_ptr<DIR, int (*)(DIR*)> entries(::opendir(dir.c_str()), ::closedir);
  if (!entries) throw base::sys_error("cannot read {}", dir);
  while (const dirent* e = ::readdir(entries.get())) {
    if (e->d_type != DT_REG) continue;
    if (::fstatat(::dirfd(entries.get()), e->d_name, &s, AT_SYMLINK_NOFOLLOW) != 0)
      throw base::sys_error("cannot look at {}/{}", dir, e->d_name);
    if (const auto owner = in_box(s, id_base); owner != CgroupTree::Owner{}) group.files[e->d_name] = owner;
  }
  return group;
}

Json owner_json(const CgroupTree::Owner& owner) { return Json::array({owner.uid, owner.gid}); }

CgroupTree::Owner parse_owner(const Json& json) {
  const CgroupTree::Owner owner{json.at(0).get<uint32_t>(), json.at(1).get<uint32_t>()};
  if (owner.uid >= kIdCount || owner.gid >= kIdCount)
    throw base::error("the box's control groups belong to an id that no box has");
  return owner;
}

/// A file of a control group, or one directory's name.
bool is_plain_name(std::string_view name) {
  return !name.empty() && name != "." && name != ".." && name.size() <= 255 &&
         name.find_first_of(std::string_view("/\n\0", 3)) == std::string_view::npos;
}

void check_path(const std::string& path) {
  if (path.empty()) return;
  bool good = path.size() <= kMostPath;
  for (size_t from = 0; good && from <= path.size();) {
    const size_t slash = std::min(path.find('/', from), path.size());
    good = is_plain_name(std::string_view(path).substr(from, slash - from));
    from = slash + 1;
  }
  if (!good) throw base::error("the box's control groups have a path that is none: {}", escape(path));
}

void check_value(const std::string& file) {
  if (file == kControllers || std::ranges::find(kValues, file) != kValues.end()) return;
  throw base::error("the box's control groups have a value for {}, which is nothing of theirs", escape(file));
}

CgroupTree::Group parse_group(const Json& json) {
  CgroupTree::Group group;
  group.path = unescape(json.at("path").get<std::string>());
  check_path(group.path);
  group.mode = json.at("mode").get<uint32_t>() & 07777;
  group.owner = parse_owner(json.at("owner"));
  for (const auto& [file, owner] : json.at("files").items()) {
    if (!is_plain_name(file)) throw base::error("the box's control groups have a file {}", escape(file));
    group.files[file] = parse_owner(owner);
  }
  for (const auto& [file, value] : json.at("values").items()) {
    check_value(file);
    group.values[file] = value.get<std::string>();
  }
  for (const auto& [name, value] : json.at("xattrs").items()) {
    if (!name.starts_with("user.")) throw base::error("the box's control groups have an attribute {}", name);
    group.xattrs[unescape(name)] = unescape(value.get<std::string>());
  }
  group.pids = json.at("pids").get<std::vector<pid_t>>();
  return group;
}

void give(const std::string& path, const CgroupTree::Owner& owner, uint32_t id_base) {
  if (::lchown(path.c_str(), owner.uid + id_base, owner.gid + id_base) != 0)
    throw base::sys_error("cannot give {} to the box", path);
}

/// The kernel makes a group's files its maker's: the node's root's. They are the box's.
void give_all(const std::string& dir, const CgroupTree::Group& group, uint32_t id_base) {
  std::unique_ptr<DIR, int (*)(DIR*)> entries(::opendir(dir.c_str()), ::closedir);
  if (!entries) throw base::sys_error("cannot read {}", dir);
  while (const dirent* e = ::readdir(entries.get())) {
    if (e->d_type != DT_REG) continue;
    const auto other = group.files.find(e->d_name);
    give(dir + "/" + e->d_name, other == group.files.end() ? CgroupTree::Owner{} : other->second, id_base);
  }
  give(dir, group.owner, id_base);
  if (::chmod(dir.c_str(), group.mode) != 0) throw base::sys_error("cannot set the mode of {}", dir);
}

void set_value(const std::string& dir, const std::string& file, const std::string& value) {
  if (!base::exists(dir + "/" + file)) {
    base::warn("{} has no {} on this node: the box loses its {}", dir, file, value);
    return;
  }
  base::write_file(dir + "/" + file, value);
}

/// Those of `wanted` that this node gives to the box.
void enable_controllers(const std::string& dir, const std::string& wanted) {
  if (wanted.empty()) return;
  std::istringstream offered(base::read_file(dir + "/cgroup.controllers")), words(wanted);
  std::vector<std::string> have;
  for (std::string word; offered >> word;) have.push_back(word);
  std::string line;
  for (std::string word; words >> word;) {
    if (std::ranges::find(have, word) != have.end())
      line += (line.empty() ? "+" : " +") + word;
    else
      base::warn("{} has no {} controller on this node: the box loses what it limits by it", dir, word);
  }
  if (!line.empty()) base::write_file(dir + "/" + kControllers, line);
}

}  // namespace

void CgroupTree::check(const Cgroup& top) {
  for (const auto& path : top.subgroups()) require_possible(top, path);
}

CgroupTree CgroupTree::record(const Cgroup& top, uint32_t id_base) {
  CgroupTree tree;
  for (const auto& path : top.subgroups()) {
    require_possible(top, path);
    tree.groups_.push_back(record_group(top, path, id_base));
  }
  return tree;
}

std::string CgroupTree::render() const {
  Json groups = Json::array();
  for (const auto& group : groups_) {
    Json files = Json::object(), values = Json::object(), xattrs = Json::object();
    for (const auto& [file, owner] : group.files) files[file] = owner_json(owner);
    for (const auto& [file, value] : group.values) values[file] = value;
    for (const auto& [name, value] : group.xattrs) xattrs[escape(name)] = escape(value);
    groups.push_back({{"path", escape(group.path)},
                      {"mode", group.mode},
                      {"owner", owner_json(group.owner)},
                      {"files", files},
                      {"values", values},
                      {"xattrs", xattrs},
                      {"pids", group.pids}});
  }
  return Json{{"groups", groups}}.dump(1) + "\n";
}

CgroupTree CgroupTree::parse(std::string_view text) {
  CgroupTree tree;
  try {
    const Json json = Json::parse(text);
    for (const auto& group : json.at("groups")) tree.groups_.push_back(parse_group(group));
  } catch (const nlohmann::json::exception&) {
    throw base::error("what the other node says of the box's control groups lacks something");
  }
  if (tree.groups_.empty() || tree.groups_.size() > kMostGroups || !tree.groups_.front().path.empty())
    throw base::error("what the other node says of the box's control groups does not begin with its own");
  return tree;
}

void CgroupTree::make(const Cgroup& top, uint32_t id_base) const {
  for (const auto& group : groups_) {
    const std::string dir = place_of(top, group.path);
    if (group.path.empty()) {
      top.delegate(id_base);
    } else {
      if (::mkdir(dir.c_str(), 0755) != 0) throw base::sys_error("cannot make {}", dir);
      give_all(dir, group, id_base);
    }
    for (const auto& [name, value] : group.xattrs)
      if (::setxattr(dir.c_str(), name.c_str(), value.data(), value.size(), 0) != 0)
        throw base::sys_error("cannot set {} of {}", name, dir);
  }
}

void CgroupTree::place(const Cgroup& top) const {
  const auto on_node = processes_of(top);
  for (const auto& group : groups_) {
    if (group.path.empty()) continue;
    const Cgroup place(place_of(top, group.path));
    for (const pid_t inner : group.pids) {
      const auto found = on_node.find(inner);
      if (found == on_node.end()) throw base::error("process {} of the box was not restored", inner);
      place.join(found->second);
    }
  }
  // A group with processes of its own cannot have controllers below it: so they come now.
  for (const auto& group : groups_) {
    const std::string dir = place_of(top, group.path);
    for (const char* file : kValues)
      if (const auto value = group.values.find(file); value != group.values.end())
        set_value(dir, file, value->second);
    if (const auto value = group.values.find(kControllers); value != group.values.end())
      enable_controllers(dir, value->second);
  }
}

}  // namespace box
