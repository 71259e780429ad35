#include "migrate/tree_renames.h"

#include <sys/stat.h>

#include <algorithm>
#include <map>
#include <optional>
#include <utility>

namespace migrate {
namespace {

using Node = TreeSnapshot::Node;
using Path = std::vector<std::string_view>;
constexpr uint32_t kNone = TreeSnapshot::kNone;

bool is_lone_file(const Node& node) { return S_ISREG(node.mode) && !node.linked && !node.absent; }

/// Calls `visit(at, path)` for everything below `at`, and goes into the directories for which it returns
/// true.
template <class Visit>
void walk(const TreeSnapshot& tree, uint32_t at, Path& path, Visit& visit) {
  const Node& directory = tree.node(at);
  for (uint32_t child = directory.first; child < directory.first + directory.count; ++child) {
    path.push_back(tree.name(tree.node(child)));
    if (visit(child, path) && S_ISDIR(tree.node(child).mode)) walk(tree, child, path, visit);
    path.pop_back();
  }
}

}  // namespace

std::vector<Rename> find_renames(const TreeSnapshot& before, const TreeSnapshot& now,
                                 const TreeDifference& difference, const SentContents& contents) {
  struct Found {
    uint32_t names = 0, old = kNone, now = kNone;
    Path from, to;
  };
  std::map<ino_t, Found> found;
  const auto same = [&](uint32_t at) {  // the node of the same name, if it is the same file
    const uint32_t old = difference.before[at];
    return old != kNone && before.node(old).ino == now.node(at).ino ? old : kNone;
  };
  for (uint32_t at = 0; at < now.size(); ++at)
    if (const Node& node = now.node(at);
        is_lone_file(node) && node.size >= kLeastPatch && same(at) == kNone && contents.find(node.ino))
      found[node.ino];
  if (found.empty() || before.empty()) return {};

  Path path;
  const auto look_now = [&](uint32_t at, const Path& to) {
    const Node& node = now.node(at);
    if (S_ISDIR(node.mode)) return same(at) != kNone;
    const auto file = found.find(node.ino);
    if (file == found.end()) return false;
    ++file->second.names;  // seen twice: renamed during the scan
    const uint32_t replaced = difference.before[at];
    if (is_lone_file(node) && same(at) == kNone &&
        (replaced == kNone || !S_ISDIR(before.node(replaced).mode)))
      file->second.now = at, file->second.to = to;
    return false;
  };
  walk(now, 0, path, look_now);
  const auto look_before = [&](uint32_t at, const Path& from) {
    const Node& node = before.node(at);
    const auto file = found.find(node.ino);
    if (file != found.end() && is_lone_file(node)) file->second.old = at, file->second.from = from;
    return !node.absent;
  };
  walk(before, 0, path, look_before);

  std::vector<Rename> left;
  for (auto& [ino, file] : found)
    if (file.names == 1 && file.now != kNone && file.old != kNone)
      left.push_back({file.old, file.now, std::move(file.from), std::move(file.to)});
  // What has the new name must have left it.
  const auto is_free = [&](const Rename& rename) {
    return std::ranges::none_of(left, [&](const Rename& other) { return other.from == rename.to; });
  };
  // In a circle one of them is sent whole: a new file, if one has got the inode number of an old one.
  const auto was_written = [&](const Rename& rename) {
    return before.node(rename.old).mtime_ns != now.node(rename.now).mtime_ns;
  };
  std::vector<Rename> ordered;
  while (!left.empty()) {
    auto next = std::ranges::find_if(left, is_free);
    if (next != left.end())
      ordered.push_back(std::move(*next));
    else if (next = std::ranges::find_if(left, was_written); next == left.end())
      next = left.begin();
    left.erase(next);
  }
  return ordered;
}

}  // namespace migrate
