#include "bootstrap/node_slots.h"

#include <fcntl.h>
#include <sys/file.h>

#include <algorithm>
#include <format>

#include "base/error.h"
#include "base/fd.h"
#include "base/mount.h"
#include "bootstrap/kernel_line.h"
#include "image/slot_file.h"

namespace bootstrap {
namespace {

base::Fd lock_slots(const base::Context& context) {
  const std::string directory = context.run_dir + "/locks";
  base::make_directories(directory);
  base::Fd lock = base::open(directory + "/slots", O_RDWR | O_CREAT);
  if (::flock(lock.get(), LOCK_EX) != 0) throw base::sys_error("cannot lock {}/slots", directory);
  return lock;
}

CheckResult check_root() {
  CheckResult result = {.name = "root", .good = false, .said = {}};
  auto verity = verity_of("/");
  if (!verity)
    result.said = "the root is not verified by the kernel (dm-verity)";
  else if (!verity->verified)
    result.said = "the root is corrupted: dm-verity has met a wrong block";
  else
    result.good = true;
  return result;
}

CheckResult check_data(const std::string& state_dir) {
  bool mounted = base::is_mount_point(state_dir);
  return {.name = "data", .good = mounted, .said = mounted ? "" : "nothing is mounted at " + state_dir};
}

}  // namespace

std::optional<image::Slot> running_slot(std::string_view kernel_line) {
  if (!booted_from_slot(kernel_line)) return std::nullopt;
  return parse_kernel_line(kernel_line).slot;
}

image::Slot parse_slot(std::string_view text) {
  for (image::Slot slot : {image::Slot::kA, image::Slot::kB})
    if (text == image::name(slot)) return slot;
  throw base::error("there is no slot {}: expected a or b", text).exit(base::Exit::kUsage);
}

image::SlotState change_slots(const base::Context& context, const std::string& state_file,
                              const Event& event) {
  base::Fd lock = lock_slots(context);
  const image::SlotState before = image::read_slot_state(state_file);
  image::SlotState after = event(before);
  if (after.first == before.first && after.slots == before.slots) return before;
  image::write_slot_state(state_file, after);
  return after;
}

bool Health::good() const { return std::ranges::all_of(results, &CheckResult::good); }

Health look_at_health(const base::Context& context, const std::string& health_file) {
  Health health;
  health.results = {check_root(), check_data(context.state_dir)};
  for (CheckResult& result : check_health(context.runner, health_file))
    health.results.push_back(std::move(result));
  return health;
}

Verdict judge(const base::Context& context, const Slots& slots, bool good) {
  if (!slots.running)
    throw base::error("this system was not started from a slot, so there is none to judge")
        .hint("drover's loader starts a slot with drover.slot= on the kernel's command line");
  const image::Slot slot = *slots.running;
  if (good) {
    change_slots(context, slots.state_file,
                 [&](const image::SlotState& state) { return state.confirm(slot); });
    return Verdict::kConfirmed;
  }
  Verdict verdict = Verdict::kMarkedBad;
  change_slots(context, slots.state_file, [&](const image::SlotState& state) {
    // A rack's switches may be slower to start than its nodes, which is no reason for all of them to go back.
    // A confirmed slot that stays unhealthy uses up its tries, boot by boot.
    if (state.at(slot).health == image::Health::kConfirmed) {
      verdict = Verdict::kProven;
      return state;
    }
    const image::SlotHealth& back = state.at(image::other(slot));
    // Without a way back an unhealthy node is better than none.
    if (back.health == image::Health::kConfirmed && back.bootable()) return state.mark_bad(slot);
    verdict = Verdict::kKept;
    return state;
  });
  return verdict;
}

}  // namespace bootstrap
