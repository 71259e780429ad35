#include "migrate/arrival.h"

#include <unistd.h>

#include "base/error.h"
#include "base/pause.h"
#include "box/box.h"
#include "box/cgroup.h"
#include "box/firewall.h"
#include "box/network.h"
#include "box/ownership.h"
#include "box/runtime.h"

namespace migrate {

void drop_arrival(const base::Context& context, const std::string& name) {
  const box::Paths paths = box::arriving_paths_of(context, name);
  box::tear_down(context, paths, name);
  box::remove_box_dir(context, paths.dir);
}

void clear_old_arrival(const base::Context& context, const std::string& name) {
  const box::Paths paths = box::arriving_paths_of(context, name);
  if (!base::exists(paths.dir)) return;
  if (auto move = box::find_move(paths); move && move->step != box::MoveStep::kArriving)
    throw base::error("an earlier move of box {} to this node is not finished", name)
        .hint("run `drover-node recover` here");
  drop_arrival(context, name);
}

void take_over(const base::Context& context, const std::string& name, const std::function<void()>& resumed) {
  const box::Paths arriving = box::arriving_paths_of(context, name);
  const box::Paths paths = box::paths_of(context, name);
  // Killed between any two of these steps, recover comes here again.
  const box::Paths& now = base::exists(arriving.dir) ? arriving : paths;
  auto move = box::find_move(now);
  if (!move) return;
  if (move->step == box::MoveStep::kPrepared) move->advance(now, box::MoveStep::kMine);
  base::pause_point("destination.mine");

  box::Config config = box::Config::parse(base::read_file(now.config));
  const box::Cgroup group(paths.cgroup);
  const auto init = box::find_init(group);
  if (init) {
    base::write_file(paths.started, std::to_string(*init) + "\n");
    box::Gate gate(box::host_end_name(name));
    gate.open();
    group.thaw();
    box::announce_box(config, box::netns_of(*init).get());
    if (resumed) resumed();
    base::pause_point("destination.running");
    base::remove_tree(paths.images);
  }

  config.epoch = move->epoch + 1;
  config.last_move = move->id;
  box::save_config(now, config);
  if (&now == &arriving) {
    base::make_directories(context.state_dir + "/boxes", 0700);
    if (::rename(arriving.dir.c_str(), paths.dir.c_str()) != 0)
      throw base::sys_error("cannot take in box {}", name);
    base::fsync_path(context.state_dir + "/boxes");
    base::fsync_path(context.state_dir + "/arriving");
  }
  base::pause_point("destination.named");
  box::end_move(paths);
  if (!init) box::start_locked(context, config);
}

}  // namespace migrate
