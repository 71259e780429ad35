#include "migrate/tree_part.h"

#include <sys/stat.h>

#include <cerrno>
#include <string_view>

#include "base/error.h"
#include "migrate/tree_scan.h"

namespace migrate {
namespace {

using Node = TreeSnapshot::Node;
constexpr uint32_t kNone = TreeSnapshot::kNone;

/// The same directory, of which the old one's children are known.
bool goes_on(const Node& old, const Node& now) {
  return S_ISDIR(old.mode) && S_ISDIR(now.mode) && old.ino == now.ino && !old.absent;
}

/// Which nodes of the old snapshot are to be looked at again: by directory, and the way to them. Goes through
/// memory only: about a millisecond for 100,000 names.
class Plan {
 public:
  Plan(const TreeSnapshot& last, const Changes& changes) : last_(last), changes_(changes) { below(0); }
  std::unordered_map<uint32_t, std::vector<uint32_t>> seen;

 private:
  bool below(uint32_t directory) {
    const Node& node = last_.node(directory);
    auto found = changes_.names.find(node.ino);
    const bool names = found != changes_.names.end();
    auto name = names ? found->second.begin() : std::set<std::string>::iterator();
    std::vector<uint32_t> chosen;
    for (uint32_t child = node.first; child < node.first + node.count; ++child) {
      const Node& old = last_.node(child);
      bool wanted = S_ISDIR(old.mode) && !old.absent && below(child);
      // All whiteouts are one file: only their names tell of them.
      wanted = wanted || old.dirty || old.absent || (!old.whiteout && changes_.files.contains(old.ino));
      if (names) {
        while (name != found->second.end() && *name < last_.name(old)) ++name;
        wanted = wanted || (name != found->second.end() && *name == last_.name(old));
      }
      if (wanted) chosen.push_back(child);
    }
    bool any = !chosen.empty() || names;
    if (!chosen.empty()) seen.emplace(directory, std::move(chosen));
    return any;
  }

  const TreeSnapshot& last_;
  const Changes& changes_;
};

class Look : public TreeScan {
 public:
  Look(int root, const TreeSnapshot& last, const Changes& changes, bool final,
       const std::function<void()>& check)
      : TreeScan(root, final, check), last_(last), changes_(changes) {
    part_.seen = Plan(last, changes).seen;
  }

  TreePart run() {
    part_.in_last.push_back(0);
    part_.before.names_.push_back('\0');
    copy_old(0);
    if (!goes_on(last_.node(0), nodes_[0])) throw base::error("the tree to send is another one than before");
    again(0, 0, 0);
    part_.now = std::move(snapshot_);
    return std::move(part_);
  }

  /// Files of several names that were met, and that `changes` does not name.
  [[nodiscard]] const std::unordered_set<ino_t>& linked() const { return linked_; }

 private:
  /// `at` in now, `old` in last, `before` in part_.before.
  void again(uint32_t at, uint32_t old, uint32_t before) {
    auto seen = part_.seen.find(old);
    auto named = changes_.names.find(nodes_[at].ino);
    if (seen == part_.seen.end() && named == changes_.names.end()) return;
    int fd = open_directory();
    struct stat status;
    if (fd >= 0 && ::fstat(fd, &status) == 0 && status.st_ino != nodes_[at].ino) {
      fd = -1;
      errno = ENOENT;  // another one has its name meanwhile
    }
    if (fd < 0) return vanished(at);

    const std::vector<uint32_t> none;
    const std::vector<uint32_t>& known = seen == part_.seen.end() ? none : seen->second;
    auto first = static_cast<uint32_t>(nodes_.size());
    auto name = named == changes_.names.end() ? no_names_.begin() : named->second.begin();
    auto end = named == changes_.names.end() ? no_names_.end() : named->second.end();
    auto next = known.begin();
    while (next != known.end() || name != end) {  // both are sorted
      if (name == end || (next != known.end() && old_name(*next) <= *name)) {
        if (name != end && old_name(*next) == *name) ++name;
        look_at(fd, old_name(*next), *next);
        ++next;
      } else {
        look_at(fd, *name, kNone);
        ++name;
      }
    }
    nodes_[at].first = first;
    nodes_[at].count = static_cast<uint32_t>(nodes_.size()) - first;
    Node& was = part_.before.node(before);
    was.first = static_cast<uint32_t>(part_.before.size());
    was.count = static_cast<uint32_t>(known.size());
    for (uint32_t child : known) copy_old(child);
    below(at, known, part_.before.node(before).first);
  }

  void below(uint32_t at, const std::vector<uint32_t>& known, uint32_t before) {
    uint32_t first = nodes_[at].first, end = first + nodes_[at].count;
    size_t position = 0;  // in known
    for (uint32_t child = first; child < end; ++child) {
      uint32_t old = part_.in_last[child];
      if (!S_ISDIR(nodes_[child].mode)) continue;
      chain_.enter(snapshot_.name(nodes_[child]));
      if (old != kNone && goes_on(last_.node(old), nodes_[child])) {
        while (known[position] != old) ++position;
        again(child, old, before + static_cast<uint32_t>(position));
      } else {
        const size_t from = nodes_.size();
        directory(child);
        part_.in_last.resize(nodes_.size(), kNone);
        for (size_t i = from; i < nodes_.size(); ++i) note_links(nodes_[i]);
      }
      chain_.leave();
    }
  }

  void look_at(int directory, std::string_view name, uint32_t old) {
    auto at = static_cast<uint32_t>(nodes_.size());
    Node& node = nodes_.emplace_back();
    node.name_at = static_cast<uint32_t>(names_.size());
    node.name_length = static_cast<uint8_t>(name.size());
    names_.append(name).push_back('\0');
    if (!look(directory, at)) {
      if (errno != ENOENT) throw base::sys_error("cannot read {}", chain_.path(name));
      nodes_.pop_back();  // gone, as the changes said
      return;
    }
    part_.in_last.push_back(old);
    note_links(nodes_[at]);
  }

  void note_links(const Node& node) {
    if (node.linked && !node.whiteout && !node.absent && !changes_.files.contains(node.ino))
      linked_.insert(node.ino);
  }

  void copy_old(uint32_t at) {
    TreeSnapshot& before = part_.before;
    Node& node = before.nodes_.emplace_back(last_.node(at));
    node.first = node.count = 0;
    if (at == 0) return;
    node.name_at = static_cast<uint32_t>(before.names_.size());
    before.names_.append(old_name(at)).push_back('\0');
  }

  [[nodiscard]] std::string_view old_name(uint32_t at) const { return last_.name(last_.node(at)); }

  const TreeSnapshot& last_;
  const Changes& changes_;
  const std::set<std::string> no_names_;
  std::unordered_set<ino_t> linked_;
  TreePart part_;
};

/// Puts a part back into the whole. A directory's run of children that grows or shrinks is written anew at
/// the end; what stood for it stays behind unused. Rounds are few.
class Patch {
 public:
  Patch(TreeSnapshot& last, const TreePart& part) : last_(last), part_(part), now_(part.now) {}
  void run() { place(0, 0); }

 private:
  void place(uint32_t at, uint32_t to) {
    const Node& fresh = now_.node(at);
    Node node = last_.node(to);
    const bool same = part_.in_last[at] != kNone && goes_on(node, fresh);
    const Node old = std::exchange(node, fresh);
    node.name_at = old.name_at;
    node.name_length = old.name_length;
    node.first = same ? old.first : 0;
    node.count = same ? old.count : 0;
    last_.node(to) = node;
    if (same)
      children(at, to);
    else
      copy_below(at, to);
  }

  void children(uint32_t at, uint32_t to) {
    const Node& node = now_.node(at);
    auto found = part_.seen.find(part_.in_last[at]);
    const std::vector<uint32_t> none;
    const std::vector<uint32_t>& seen = found == part_.seen.end() ? none : found->second;
    std::vector<uint32_t> places;
    for (uint32_t child = node.first; child < node.first + node.count; ++child)
      if (part_.in_last[child] != kNone) places.push_back(part_.in_last[child]);
    if (places.size() != seen.size() || places.size() != node.count) places = new_run(node, to, seen);
    for (uint32_t i = 0; i < node.count; ++i) place(node.first + i, places[i]);
  }

  /// The children of `to` without those that were seen, and with those that are there now. Returns where the
  /// latter stand.
  std::vector<uint32_t> new_run(const Node& node, uint32_t to, const std::vector<uint32_t>& seen) {
    std::vector<uint32_t> places;
    auto& nodes = last_.nodes_;
    uint32_t old = last_.node(to).first;
    const uint32_t old_end = old + last_.node(to).count;
    const auto first = static_cast<uint32_t>(nodes.size());
    auto next = seen.begin();
    auto keep_until = [&](std::string_view name) {  // an empty one: to the end
      for (; old < old_end && (name.empty() || last_.name(nodes[old]) < name); ++old) {
        if (next != seen.end() && *next == old)
          ++next;
        else
          nodes.push_back(Node(nodes[old]));
      }
    };
    for (uint32_t child = node.first; child < node.first + node.count; ++child) {
      keep_until(now_.name(now_.node(child)));
      places.push_back(static_cast<uint32_t>(nodes.size()));
      if (part_.in_last[child] != kNone) {
        nodes.push_back(Node(nodes[part_.in_last[child]]));
        ++old;
        ++next;
      } else {
        add(child);
      }
    }
    keep_until({});
    last_.node(to).first = first;
    last_.node(to).count = static_cast<uint32_t>(nodes.size()) - first;
    return places;
  }

  void copy_below(uint32_t at, uint32_t to) {
    const Node& node = now_.node(at);
    if (node.count == 0) return;
    const auto first = static_cast<uint32_t>(last_.size());
    for (uint32_t i = 0; i < node.count; ++i) add(node.first + i);
    last_.node(to).first = first;
    last_.node(to).count = node.count;
    for (uint32_t i = 0; i < node.count; ++i) copy_below(node.first + i, first + i);
  }

  void add(uint32_t at) {
    Node node = now_.node(at);
    node.name_at = static_cast<uint32_t>(last_.names_.size());
    last_.names_.append(now_.name(now_.node(at))).push_back('\0');
    node.first = node.count = 0;
    last_.nodes_.push_back(node);
  }

  TreeSnapshot& last_;
  const TreePart& part_;
  const TreeSnapshot& now_;
};

}  // namespace

TreePart look_again(int root, const TreeSnapshot& last, Changes changes, bool final,
                    const std::function<void()>& check) {
  while (true) {
    Look look(root, last, changes, final, check);
    TreePart part = look.run();
    if (look.linked().empty()) return part;
    changes.files.insert(look.linked().begin(), look.linked().end());
  }
}

void put_back(TreeSnapshot& last, const TreePart& part) { Patch(last, part).run(); }

}  // namespace migrate
