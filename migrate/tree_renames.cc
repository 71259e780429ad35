#include "migrate/tree_renames.h"

#include <sys/stat.h>

#include <algorithm>
#include <map>
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
    uint32_t names_before = 0, names_now = 0, old = kNone, now = kNone;
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

  // A file that is met twice was renamed during that scan: it is not known under which name it was sent.
  Path path;
  const auto look_now = [&](uint32_t at, const Path& to) {
    const Node& node = now.node(at);
    if (S_ISDIR(node.mode)) return same(at) != kNone && S_ISDIR(before.node(same(at)).mode);
    const auto file = found.find(node.ino);
    if (file == found.end()) return false;
    ++file->second.names_now;
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
    if (file != found.end() && !node.absent) {
      ++file->second.names_before;
      if (is_lone_file(node)) file->second.old = at, file->second.from = from;
    }
    return !node.absent;
  };
  walk(before, 0, path, look_before);

  std::map<Path, Rename> left;  // by `from`
  for (auto& [ino, file] : found)
    if (file.names_before == 1 && file.names_now == 1 && file.now != kNone && file.old != kNone)
      left.emplace(file.from, Rename{file.old, file.now, file.from, std::move(file.to)});
  // What has the new name must have left it: from each one to the end of its chain, and back.
  std::vector<Rename> ordered;
  while (!left.empty()) {
    std::vector<decltype(left)::iterator> chain = {left.begin()};
    auto next = left.find(chain.back()->second.to);
    for (; next != left.end() && next != chain.front(); next = left.find(next->second.to))
      chain.push_back(next);
    if (next != left.end()) {  // a circle: the smallest goes whole
      left.erase(*std::ranges::min_element(
          chain, {}, [&](const auto& link) { return now.node(link->second.now).size; }));
      continue;
    }
    for (; !chain.empty(); chain.pop_back()) {
      ordered.push_back(std::move(chain.back()->second));
      left.erase(chain.back());
    }
  }
  return ordered;
}

}  // namespace migrate
