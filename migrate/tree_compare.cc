#include "migrate/tree_compare.h"

#include <sys/stat.h>

#include <algorithm>
#include <span>

namespace migrate {
namespace {

using Node = TreeSnapshot::Node;
using Change = TreeDifference::Change;
constexpr uint32_t kNone = TreeSnapshot::kNone;

class Comparison {
 public:
  Comparison(const TreeSnapshot& before, const TreeSnapshot& now, const std::set<ino_t>& always)
      : before_(before), now_(now), always_(always) {
    result_.change.assign(now.size(), Change::kSend);
    result_.before.assign(now.size(), kNone);
  }

  TreeDifference run() {
    pair(0, before_.empty() ? kNone : 0);
    group();
    add_up();
    return std::move(result_);
  }

 private:
  void pair(uint32_t at, uint32_t old) {
    result_.before[at] = old;
    result_.change[at] = change(now_.node(at), old);
    if (S_ISDIR(now_.node(at).mode)) children(at, old);
  }

  [[nodiscard]] Change change(const Node& node, uint32_t old_at) const {
    if (old_at == kNone) return Change::kSend;
    const Node& old = before_.node(old_at);
    // overlayfs makes all whiteouts links of one, so each new one changes the ctime of all.
    if (node.whiteout && old.whiteout) return Change::kNone;
    if (old.dirty || always_.contains(node.ino)) return Change::kSend;
    bool same = node.ino == old.ino && node.mode == old.mode && node.ctime_ns == old.ctime_ns &&
                node.mtime_ns == old.mtime_ns && node.size == old.size;
    if (!same) return Change::kSend;
    return node.atime_ns == old.atime_ns ? Change::kNone : Change::kTimes;
  }

  void children(uint32_t at, uint32_t old) {
    const Node& node = now_.node(at);
    // What was there of another kind is replaced as a whole.
    bool had = old != kNone && S_ISDIR(before_.node(old).mode) && before_.node(old).ino == node.ino;
    uint32_t o = had ? before_.node(old).first : 0, old_end = had ? o + before_.node(old).count : 0;
    for (uint32_t n = node.first; n < node.first + node.count; ++n) {
      for (; o < old_end && before_name(o) < now_.name(now_.node(n)); ++o) gone(at, o);
      uint32_t match = kNone;
      if (o < old_end && before_name(o) == now_.name(now_.node(n))) {
        if (now_.node(n).absent) {
          gone(at, o);
        } else if (!before_.node(o).absent) {
          match = o;
        }
        ++o;
      }
      if (!now_.node(n).absent) pair(n, match);
    }
    for (; o < old_end; ++o) gone(at, o);
  }

  [[nodiscard]] std::string_view before_name(uint32_t at) const { return before_.name(before_.node(at)); }

  void gone(uint32_t directory, uint32_t old) {
    if (!before_.node(old).absent) result_.removed[directory].push_back(old);
  }

  void group() {
    std::vector<std::pair<uint64_t, uint32_t>> linked;
    for (uint32_t at = 0; at < now_.size(); ++at) {
      const Node& node = now_.node(at);
      if (node.linked && !node.absent && !node.whiteout) linked.emplace_back(node.ino, at);
    }
    std::ranges::sort(linked);
    for (auto begin = linked.begin(); begin != linked.end();) {
      auto end =
          std::find_if(begin, linked.end(), [&](const auto& other) { return other.first != begin->first; });
      if (end - begin > 1) group(std::span(begin, end));
      begin = end;
    }
  }

  void group(std::span<const std::pair<uint64_t, uint32_t>> members) {
    if (std::ranges::none_of(members,
                             [&](const auto& m) { return result_.change[m.second] == Change::kSend; }))
      return;
    TreeDifference::Group group = {.names = static_cast<uint32_t>(members.size())};
    for (auto [ino, at] : members) {
      result_.change[at] = Change::kSend;
      result_.group_of[at] = static_cast<uint32_t>(result_.groups.size());
      group.steady &= now_.node(at).ctime_ns == now_.node(members[0].second).ctime_ns;
    }
    result_.groups.push_back(group);
  }

  void add_up() {
    std::vector<bool> counted(result_.groups.size());
    for (uint32_t at = 0; at < now_.size(); ++at) {
      const Node& node = now_.node(at);
      if (!S_ISREG(node.mode) || node.absent || result_.change[at] != Change::kSend) continue;
      if (auto group = result_.group_of.find(at); group != result_.group_of.end()) {
        if (counted[group->second]) continue;
        counted[group->second] = true;
      }
      result_.bytes += node.size;
    }
  }

  const TreeSnapshot& before_;
  const TreeSnapshot& now_;
  const std::set<ino_t>& always_;
  TreeDifference result_;
};

}  // namespace

TreeDifference compare_trees(const TreeSnapshot& before, const TreeSnapshot& now,
                             const std::set<ino_t>& always) {
  return Comparison(before, now, always).run();
}

}  // namespace migrate
