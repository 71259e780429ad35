#include "migrate/departure.h"

#include "base/error.h"
#include "base/fd.h"
#include "base/log.h"
#include "box/abandoned.h"
#include "box/announce.h"
#include "box/box.h"
#include "box/cgroup.h"
#include "box/criu.h"
#include "box/node.h"
#include "box/ownership.h"
#include "box/runtime.h"

namespace migrate {
namespace {

void let_go_on(const box::Cgroup& group, const box::Config& config, pid_t init) {
  box::undo_criu(group, init);
  box::open_network(config);
  const base::Fd netns = box::netns_of(init);
  group.thaw();
  box::announce(netns.get(), config.mac, config.addresses).close();
}

}  // namespace

bool keep_box(const base::Context& context, const box::Config& config) {
  const box::Paths paths = box::paths_of(context, config.name);
  box::wait_for_criu(paths.criu_lock);
  const box::Cgroup group(paths.cgroup);
  if (const auto init = box::find_init(group)) {
    try {
      let_go_on(group, config, *init);
    } catch (const base::Error&) {
      if (box::find_init(group)) throw;
    }
  }
  // A CRIU that was killed may have taken it along (docs/decisions/0005).
  const bool goes_on = box::find_init(group).has_value();
  if (!goes_on)
    base::warn("box {} has ended: `drover-node box start {}` starts it anew", config.name, config.name);
  base::remove_tree(paths.images);
  box::end_kept_move(paths);
  return goes_on;
}

base::Error with_lost_box(const base::Error& e, const std::string& box) {
  return base::Error(e).hint("it has ended meanwhile: `drover-node box start " + box + "` starts it anew");
}

void forget_box(const base::Context& context, const box::Config& config, uint64_t new_epoch) {
  const box::Paths paths = box::paths_of(context, config.name);
  box::tear_down(context, paths, config.name);
  if (auto move = box::find_move(paths)) box::remember_given(context, config, new_epoch, move->id);
  box::remove_box_dir(context, paths.dir);
}

}  // namespace migrate
