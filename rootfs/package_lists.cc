#include "rootfs/package_lists.h"

#include <algorithm>
#include <filesystem>
#include <functional>
#include <set>
#include <unordered_map>
#include <unordered_set>

#include "base/fd.h"

namespace rootfs {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMostList = 1 << 30;

/// Of one package in a list; deb-control(5) has the fields.
struct Entry {
  std::string_view text;  ///< with the newline of its last line
  std::string_view name, version, provides;
  std::string_view needs[2];     ///< Depends and Pre-Depends
  bool in_every_system = false;  ///< or in one that a definition may begin with
  size_t list = 0;               ///< its index
};

struct List {
  std::string file, text;
  fs::file_time_type time;
};

std::vector<List> read_lists(const std::string& directory) {
  std::vector<List> lists;
  for (const auto& entry : fs::directory_iterator(directory)) {
    std::string file = entry.path().filename();
    if (file.ends_with("_Packages"))
      lists.push_back({.file = file,
                       .text = base::read_file(entry.path(), kMostList),
                       .time = fs::last_write_time(entry)});
  }
  return lists;
}

Entry parse_entry(std::string_view text) {
  Entry entry;
  entry.text = text;
  for (std::string_view rest = text; !rest.empty();) {
    std::string_view line = rest.substr(0, rest.find('\n'));
    rest.remove_prefix(std::min(rest.size(), line.size() + 1));
    if (!line.starts_with('P') && !line.starts_with('V') && !line.starts_with('D') &&
        !line.starts_with('E') && !line.starts_with('I'))
      continue;
    size_t colon = line.find(": ");
    if (colon == std::string_view::npos) continue;
    std::string_view key = line.substr(0, colon), value = line.substr(colon + 2);
    if (key == "Package") entry.name = value;
    if (key == "Version") entry.version = value;
    if (key == "Provides") entry.provides = value;
    if (key == "Depends") entry.needs[0] = value;
    if (key == "Pre-Depends") entry.needs[1] = value;
    if ((key == "Essential" || key == "Protected" || key == "Important") && value == "yes")
      entry.in_every_system = true;
    if (key == "Priority" && (value == "required" || value == "important")) entry.in_every_system = true;
  }
  return entry;
}

std::vector<Entry> entries_of(const std::vector<List>& lists) {
  std::vector<Entry> entries;
  for (size_t i = 0; i < lists.size(); ++i) {
    for (std::string_view rest = lists[i].text; !rest.empty();) {
      size_t end = rest.find("\n\n");
      entries.push_back(parse_entry(rest.substr(0, end == std::string_view::npos ? end : end + 1)));
      entries.back().list = i;
      rest.remove_prefix(end == std::string_view::npos ? rest.size() : end + 2);
    }
  }
  return entries;
}

/// The names in "a | b:any (>= 2), c".
template <class Body>
void for_each_name(std::string_view dependencies, Body body) {
  while (!dependencies.empty()) {
    std::string_view one = dependencies.substr(0, dependencies.find_first_of(",|"));
    dependencies.remove_prefix(std::min(dependencies.size(), one.size() + 1));
    one.remove_prefix(std::min(one.size(), one.find_first_not_of(" \n\t")));
    body(one.substr(0, one.find_first_of(" :(=\n\t")));
  }
}

/// Marks which of the entries can be reached.
class Reach {
 public:
  explicit Reach(const std::vector<Entry>& entries) : entries_(entries), reached_(entries.size()) {
    for (size_t i = 0; i < entries.size(); ++i) {
      by_name_[entries[i].name].push_back(i);
      for_each_name(entries[i].provides, [&](std::string_view name) { by_name_[name].push_back(i); });
    }
  }
  void from(const std::vector<std::string>& wanted) {
    for (const std::string& dependencies : wanted) add(dependencies);
    for (size_t i = 0; i < entries_.size(); ++i)
      if (entries_[i].in_every_system) reach(i);
    while (!open_.empty()) {
      const Entry& entry = entries_[open_.back()];
      open_.pop_back();
      for (std::string_view dependencies : entry.needs) add(dependencies);
    }
  }
  [[nodiscard]] bool has(size_t i) const { return reached_[i]; }

 private:
  void add(std::string_view dependencies) {
    for_each_name(dependencies, [&](std::string_view name) {
      if (auto found = by_name_.find(name); found != by_name_.end())
        for (size_t i : found->second) reach(i);
    });
  }
  void reach(size_t i) {
    if (reached_[i]) return;
    reached_[i] = true;
    open_.push_back(i);
  }

  const std::vector<Entry>& entries_;
  std::unordered_map<std::string_view, std::vector<size_t>> by_name_;
  std::vector<bool> reached_;
  std::vector<size_t> open_;
};

/// Leaves out what suites have that give some packages only.
std::vector<Entry> that_suites_give(const std::vector<List>& lists, std::vector<Entry> entries,
                                    const Suites& suites) {
  std::vector<const std::vector<std::string>*> given;
  for (const List& list : lists) {
    auto suite = std::ranges::find_if(
        suites, [&](const auto& one) { return list.file.contains("_dists_" + one.first + "_"); });
    given.push_back(suite == suites.end() ? nullptr : &suite->second);
  }
  std::unordered_set<std::string_view> elsewhere;
  for (const Entry& entry : entries)
    if (given[entry.list] == nullptr) elsewhere.insert(entry.name);
  std::erase_if(entries, [&](const Entry& entry) {
    const auto* names = given[entry.list];
    return names != nullptr && elsewhere.contains(entry.name) && !std::ranges::contains(*names, entry.name);
  });
  return entries;
}

/// The lists again, with these entries, and what is beside them.
void write_lists(const std::string& from, const std::string& to, const std::vector<List>& lists,
                 const std::vector<Entry>& entries, const std::function<bool(size_t)>& wanted) {
  base::remove_tree(to);
  base::make_directories(to + "/partial");
  for (const auto& entry : fs::directory_iterator(from))
    if (entry.path().filename().string().ends_with("Release"))
      fs::copy_file(entry, fs::path(to) / entry.path().filename());
  std::vector<std::string> texts(lists.size());
  for (size_t i = 0; i < entries.size(); ++i)
    if (wanted(i)) texts[entries[i].list].append(entries[i].text).append("\n");
  for (size_t i = 0; i < lists.size(); ++i) {
    std::string file = to + "/" + lists[i].file;
    base::write_file(file, texts[i]);
    fs::last_write_time(file, lists[i].time);
  }
}

}  // namespace

void narrow_lists(const std::string& from, const std::string& to, const Suites& suites,
                  const std::vector<std::string>& wanted) {
  std::vector<List> lists = read_lists(from);
  std::vector<Entry> entries = that_suites_give(lists, entries_of(lists), suites);
  Reach reach(entries);
  reach.from(wanted);
  write_lists(from, to, lists, entries, [&](size_t i) { return reach.has(i); });
}

std::vector<Package> copy_entries(const std::string& from, const std::string& to,
                                  const std::vector<Package>& packages) {
  std::vector<List> lists = read_lists(from);
  std::vector<Entry> entries = entries_of(lists);
  std::set<std::pair<std::string_view, std::string_view>> those;
  for (const Package& package : packages) those.emplace(package.name, package.version);
  std::set<std::pair<std::string_view, std::string_view>> found;
  write_lists(from, to, lists, entries, [&](size_t i) {
    std::pair<std::string_view, std::string_view> entry = {entries[i].name, entries[i].version};
    return those.contains(entry) && (found.insert(entry), true);
  });
  std::vector<Package> missing;
  for (const Package& package : packages)
    if (!found.contains({package.name, package.version})) missing.push_back(package);
  return missing;
}

}  // namespace rootfs
