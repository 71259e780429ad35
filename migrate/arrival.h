#pragma once
#include <functional>
#include <optional>
#include <string>

#include "base/context.h"
#include "base/fd.h"
#include "box/node.h"
#include "box/ownership.h"
#include "migrate/rules.h"

namespace migrate {

/// What a node does with a box that was on its way here, whoever finds out first: the receiving
/// process, or `recover`. All of it can be repeated.

/// Held by the process that brings a box's memory (all modes but stop), as long as it lives; its pid is in
/// it.
class PagerLock {
 public:
  explicit PagerLock(const box::Paths& paths);
  /// Somebody holds it.
  static bool held(const box::Paths& paths);
  /// Ends who holds it, as the box is not wanted any more, even if it hangs. `file`: of the lock, as it may
  /// be removed by then.
  static void end(const base::Fd& file);

 private:
  base::Fd fd_;
};

/// The box never came: processes, cable, files and journal go.
void drop_arrival(const base::Context& context, const std::string& name);
/// The move of this id, wherever the box is in its way here.
std::optional<box::Move> find_arrival(const base::Context& context, const std::string& name,
                                      const std::string& id);
/// What every arrival begins with: directory, empty private layer, journal (kArriving), and all that does
/// not depend on the box's last moments: control group. After an Error: drop_arrival.
box::Move begin_arrival(const base::Context& context, box::Config config, std::string id, std::string peer,
                        uint64_t epoch, bool lazy = false);
/// Drops what an earlier move left, if it had not been prepared; throws when it had.
void clear_old_arrival(const base::Context& context, const std::string& name);
/// The box is this node's: journal, network, resume, announcement, then `resumed` (may be empty),
/// then what can wait. Where its frozen processes did not survive (this node was restarted), or their
/// memory was still on its way and nobody brings it any more, it is started from its disk, as after a
/// power cut. With memory on its way the move stays on record: its bringer ends it.
Taken take_over(const base::Context& context, const std::string& name,
                const std::function<void()>& resumed = {});

}  // namespace migrate
