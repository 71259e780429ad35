#include "migrate/arrival.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <format>

#include "base/error.h"
#include "base/log.h"
#include "base/pause.h"
#include "box/announce.h"
#include "box/box.h"
#include "box/cgroup.h"
#include "box/firewall.h"
#include "box/network.h"
#include "box/ownership.h"
#include "box/rootfs.h"
#include "box/runtime.h"
#include "migrate/preflight.h"

namespace migrate {

PagerLock::PagerLock(const box::Paths& paths) : fd_(base::open(paths.pager_lock, O_RDWR | O_CREAT)) {
  if (::flock(fd_.get(), LOCK_EX | LOCK_NB) != 0)
    throw base::error("another process brings the memory of this box");
  base::write_full(fd_.get(), std::format("{}\n", ::getpid()), paths.pager_lock);
}

void PagerLock::end(const base::Fd& file) {
  std::array<char, 16> text{};
  if (::flock(file.get(), LOCK_EX | LOCK_NB) == 0 ||
      ::pread(file.get(), text.data(), text.size() - 1, 0) <= 0)
    return;
  if (const int pid = std::atoi(text.data()); pid > 0)
    ::kill(pid, SIGKILL);  // it has the lock, so it is that process
}

bool PagerLock::held(const box::Paths& paths) {
  if (!base::exists(paths.pager_lock)) return false;
  const base::Fd fd = base::open(paths.pager_lock, O_RDWR);
  return ::flock(fd.get(), LOCK_EX | LOCK_NB) != 0;
}

std::optional<box::Move> find_arrival(const base::Context& context, const std::string& name,
                                      const std::string& id) {
  for (const box::Paths& paths : {box::arriving_paths_of(context, name), box::paths_of(context, name)})
    if (auto move = box::find_move(paths); move && move->id == id) return move;
  return std::nullopt;
}

void drop_arrival(const base::Context& context, const std::string& name) {
  const box::Paths paths = box::arriving_paths_of(context, name);
  const auto bringer = base::open_if_exists(paths.pager_lock, O_RDWR);
  box::tear_down(context, paths, name);
  box::remove_box_dir(context, paths.dir);
  if (bringer) PagerLock::end(*bringer);
}

box::Move begin_arrival(const base::Context& context, box::Config config, std::string id, std::string peer,
                        uint64_t epoch, bool lazy) {
  const box::Paths paths = box::arriving_paths_of(context, config.name);
  // Since the preflight a box may have been created here, or have begun to arrive.
  std::optional<box::Lock> node = box::lock_node(context);
  require_no_clash(context, config);
  base::make_directories(paths.dir, 0700);
  // It goes there in the end, taken over or dropped, also where the disk is full by then.
  base::make_directories(context.state_dir + "/boxes", 0700);
  box::make_private_layer(config, paths);
  // As it will be here: who takes the box over needs no space for it.
  config.epoch = epoch + 1;
  config.last_move = id;
  box::save_config(paths, config);
  box::Move move =
      box::begin_move(paths, box::MoveStep::kArriving, std::move(id), std::move(peer), {}, epoch, lazy);
  base::fsync_path(context.state_dir + "/arriving");
  node.reset();
  base::pause_point("destination.arriving");
  box::make_run_directory(context, paths);
  base::make_directories(paths.images, 0700);
  base::make_directories(context.run_dir + "/log", 0700);
  box::Cgroup(paths.cgroup).create_for_box();
  return move;
}

void clear_old_arrival(const base::Context& context, const std::string& name) {
  const box::Paths paths = box::arriving_paths_of(context, name);
  if (!base::exists(paths.dir)) return;
  const auto move = box::find_move(paths);
  if (resume_of_arriving(move ? std::optional(move->step) : std::nullopt) != Resume::kDrop)
    throw base::error("an earlier move of box {} to this node is not finished", name)
        .hint("run `drover-node recover` here");
  drop_arrival(context, name);
}

Taken take_over(const base::Context& context, const std::string& name, const std::function<void()>& resumed) {
  const box::Paths arriving = box::arriving_paths_of(context, name);
  const box::Paths paths = box::paths_of(context, name);
  // Killed between any two of these steps, recover comes here again.
  const box::Paths& now = base::exists(arriving.dir) ? arriving : paths;
  auto move = box::find_move_on_disk(now);
  if (!move) return Taken::kWhole;  // ended before
  if (move->step == box::MoveStep::kPrepared) move->advance(now, box::MoveStep::kMine);
  base::pause_point("destination.mine");

  auto config = box::Config::parse(base::read_file(now.config));
  const box::Cgroup group(paths.cgroup);
  const auto init = box::find_init(group);
  const Taken taken = goes_on(move->step, move->lazy, init.has_value(), PagerLock::held(paths));
  if (init && taken == Taken::kFromDisk)
    base::warn("box {} has lost memory that was still on its way: it is started from its disk", name);
  if (init && taken != Taken::kFromDisk && base::exists(paths.images)) {
    base::write_file(paths.started, std::format("{}\n", *init));
    box::Gate gate(box::host_end_name(name));
    gate.open();
    const base::Fd netns = box::netns_of(*init);
    box::await_carrier(config, netns.get());
    group.thaw();
    const base::Fd used =
        box::announce(netns.get(), config.mac, config.addresses);  // closed when nobody waits
    if (resumed) resumed();
    base::pause_point("destination.running");
    base::remove_tree(paths.images);
  }

  if (config.last_move != move->id) {  // it began to arrive under an older drover-node
    config.epoch = move->epoch + 1;
    config.last_move = move->id;
    box::save_config(now, config);
  }
  if (&now == &arriving) {
    if (::rename(arriving.dir.c_str(), paths.dir.c_str()) != 0)
      throw base::sys_error("cannot take in box {}", name);
    base::fsync_path(context.state_dir + "/boxes");
    base::fsync_path(context.state_dir + "/arriving");
  }
  base::pause_point("destination.named");
  if (taken == Taken::kMemoryFollows) return taken;
  box::end_move(paths);
  if (taken == Taken::kFromDisk) box::start_locked(context, config);
  return taken;
}

}  // namespace migrate
