#include "box/node.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <set>
#include <thread>

#include "base/error.h"
#include "base/hash.h"
#include "box/cgroup.h"

namespace box {
namespace {

// That somebody who has just begun waits for somebody who is just about to end.
constexpr auto kMoment = std::chrono::milliseconds(1000);

Paths make_paths(const base::Context& context, const std::string& parent, std::string_view name) {
  Paths p;
  p.dir = context.state_dir + "/" + parent + "/" + std::string(name);
  p.config = p.dir + "/box.json";
  p.priv = p.dir + "/private";
  p.upper = p.priv + "/upper";
  p.volume = p.dir + "/volume";
  p.journal = p.dir + "/move.journal";
  p.run = context.run_dir + "/boxes/" + std::string(name);
  p.root = p.run + "/root";
  p.images = p.run + "/images";
  p.criu_log = context.run_dir + "/log/" + std::string(name) + ".criu.log";
  p.criu_lock = p.run + "/criu.lock";
  p.pager_lock = p.run + "/pager.lock";
  p.started = p.run + "/started";
  p.cgroup = cgroup_mount() + "/drover/" + std::string(name);
  return p;
}

std::vector<std::string> names_in(const std::string& dir) {
  std::vector<std::string> names;
  std::unique_ptr<DIR, int (*)(DIR*)> d(::opendir(dir.c_str()), ::closedir);
  if (!d) {
    if (errno == ENOENT) return names;
    throw base::sys_error("cannot read {}", dir);
  }
  while (const dirent* e = ::readdir(d.get()))
    if (e->d_name[0] != '.') names.emplace_back(e->d_name);
  std::ranges::sort(names);
  return names;
}

base::Fd lock_file(const base::Context& context, std::string_view name) {
  base::make_directories(context.run_dir, 0711);
  base::make_directories(context.run_dir + "/locks", 0700);
  return base::open(context.run_dir + "/locks/" + std::string(name), O_RDWR | O_CREAT);
}

Lock wait_for_lock(const base::Context& context, std::string_view name) {
  base::Fd fd = lock_file(context, name);
  if (::flock(fd.get(), LOCK_EX) != 0) throw base::sys_error("cannot lock the {}", name);
  return Lock(std::move(fd));
}

}  // namespace

Paths paths_of(const base::Context& context, std::string_view name) {
  return make_paths(context, "boxes", name);
}

Paths arriving_paths_of(const base::Context& context, std::string_view name) {
  return make_paths(context, "arriving", name);
}

void make_run_directory(const base::Context& context, const Paths& paths) {
  for (const std::string& dir : {context.run_dir, context.run_dir + "/boxes", paths.run})
    base::make_directories(dir, 0711);
}

std::optional<Lock> try_lock_box(const base::Context& context, std::string_view name) {
  check_name(name);
  base::Fd fd = lock_file(context, "box-" + std::string(name));
  if (::flock(fd.get(), LOCK_EX | LOCK_NB) == 0) return Lock(std::move(fd));
  if (errno == EWOULDBLOCK) return std::nullopt;
  throw base::sys_error("cannot lock box {}", name);
}

Lock lock_box(const base::Context& context, std::string_view name) {
  // A move's last note on disk is made when its command has ended already.
  for (const auto start = std::chrono::steady_clock::now();
       std::chrono::steady_clock::now() - start < kMoment; std::this_thread::sleep_for(kMoment / 50))
    if (auto lock = try_lock_box(context, name)) return std::move(*lock);
  throw base::error("box {} is busy: another command is changing or moving it", name)
      .hint("wait for that command to end; `drover-node box list` shows what the box is doing");
}

Lock lock_node(const base::Context& context) { return wait_for_lock(context, "node"); }

Lock lock_layers(const base::Context& context) { return wait_for_lock(context, "layers"); }

std::vector<std::string> box_names(const base::Context& context) {
  return names_in(context.state_dir + "/boxes");
}

std::vector<std::string> arriving_names(const base::Context& context) {
  return names_in(context.state_dir + "/arriving");
}

std::optional<Config> find_config(const Paths& paths) {
  auto text = base::read_file_if_exists(paths.config);
  if (!text) return std::nullopt;
  try {
    return Config::parse(*text);
  } catch (const base::Error& e) {
    throw base::error("{} is damaged: {}", paths.config, e.message())
        .hint("put the file right, or back from a backup");
  }
}

std::optional<Config> find_config(const base::Context& context, std::string_view name) {
  return find_config(paths_of(context, name));
}

std::vector<Config> all_configs(const base::Context& context) {
  std::vector<Config> out;
  auto read = [&](const std::vector<std::string>& names, auto paths) {
    for (const auto& name : names)
      if (auto config = find_config(paths(context, name))) out.push_back(std::move(*config));
  };
  // A box goes from the first to the second by rename, so in this order none is missed.
  read(arriving_names(context), arriving_paths_of);
  read(box_names(context), paths_of);
  return out;
}

Config load_config(const base::Context& context, std::string_view name) {
  check_name(name);
  if (auto config = find_config(context, name)) return *config;
  throw base::error("there is no box {} on this node", name)
      .hint("`drover-node box list` names those that are here");
}

void save_config(const Paths& paths, const Config& config) {
  base::write_file_atomically(paths.config, config.render(), 0600);
}

uint32_t choose_id_base(const base::Context& context, std::string_view name) {
  // Ranges 16 … 60015 of 65536 ids: above every system's own users, below 2^32 - 2^26.
  constexpr uint32_t kFirst = 16, kRanges = 60000;
  std::set<uint32_t> taken;
  for (const auto& other : all_configs(context)) taken.insert(other.id_base / kIdCount);
  uint32_t at = base::crc32c(name) % kRanges;
  for (uint32_t tried = 0; tried < kRanges; ++tried, at = (at + 1) % kRanges)
    if (!taken.contains(kFirst + at)) return (kFirst + at) * kIdCount;
  throw base::error("this node has no range of {} ids left for a box", kIdCount);
}

}  // namespace box
