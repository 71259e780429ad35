#pragma once
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/context.h"
#include "bootstrap/health.h"
#include "bootstrap/verity.h"
#include "image/slot_state.h"

namespace bootstrap {

constexpr std::string_view kSlotState = "/boot/efi/drover/slot-state";

/// Where the slots of this node are, and which of them runs.
struct Slots {
  std::string state_file = std::string(kSlotState);
  std::optional<image::Slot> running;  ///< nullopt: this system was not started from a slot
};

/// The running slot, by the kernel's command line.
std::optional<image::Slot> running_slot(std::string_view kernel_line);
/// "a" or "b" as typed; anything else is an Error.
image::Slot parse_slot(std::string_view text);

/// One event of a slot's state (docs/formats/slot-state.md) on disk, one at a time on this node. Writes
/// nothing where the event changes nothing but the sequence number. Returns the state after it.
using Event = std::function<image::SlotState(const image::SlotState&)>;
image::SlotState change_slots(const base::Context& context, const std::string& state_file,
                              const Event& event);

/// How the running slot is.
struct Health {
  std::vector<CheckResult> results;
  [[nodiscard]] bool good() const;
};
/// The checks of the image, and before them what every slot needs: a root whose blocks are right, data.
Health look_at_health(const base::Context& context, const std::string& health_file);

enum class Verdict {
  kConfirmed,  ///< healthy, and the sector says so
  kMarkedBad,  ///< not healthy: the other slot boots next
  kKept,       ///< not healthy, and no other slot is confirmed and boots: this one stays
  kProven,     ///< not healthy, but it was in an earlier boot: this one stays
};
/// What the node says about its slot after the checks.
Verdict judge(const base::Context& context, const Slots& slots, bool good);

}  // namespace bootstrap
