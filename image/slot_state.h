#pragma once
#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

/// Which of a node's two slots boots next. The state is one sector on the ESP, written in place by the loader
/// and by the node (docs/formats/slot-state.md; docs/decisions/0019 says why one sector).
namespace image {

enum class Slot : uint8_t { kA, kB };
Slot other(Slot slot);
std::string_view name(Slot slot);  ///< "a", "b": as in the sector and on the kernel's command line

enum class Health : uint8_t {
  kBad,        ///< empty, half written, or found to be broken: never booted
  kTrial,      ///< written whole, and not yet confirmed
  kConfirmed,  ///< has been up and healthy
};

constexpr int kMostTries = 3;

struct SlotHealth {
  Health health = Health::kBad;
  int tries = 0;  ///< how often the loader still starts it, 0 to kMostTries; 0 where it is bad

  [[nodiscard]] bool bootable() const { return health != Health::kBad && tries > 0; }
  bool operator==(const SlotHealth&) const = default;
};

/// Every event returns the state after it, and throws, with nothing changed, where it is not allowed. No
/// event but boot() leaves a disk without a slot that boots, if it had one.
struct SlotState {
  Slot first = Slot::kA;  ///< the one that the loader looks at first
  std::array<SlotHealth, 2> slots;
  uint32_t sequence = 0;  ///< grows by one with each event but boot(); begins anew after kLastSequence

  static constexpr uint32_t kLastSequence = 99'999'999;

  [[nodiscard]] const SlotHealth& at(Slot slot) const { return slots[static_cast<size_t>(slot)]; }

  /// Before a slot is written to, and when it is found to be broken: nothing boots it. Only where the other
  /// slot is confirmed and has tries left, or where `slot` is bad already.
  [[nodiscard]] SlotState mark_bad(Slot slot) const;
  /// `slot`, which was bad, has been written whole and read back: it comes first, and has `tries` (1 to
  /// kMostTries).
  [[nodiscard]] SlotState activate(Slot slot, int tries) const;
  /// `slot` runs and is healthy. It gets all its tries back; the order stays, as another slot may be on
  /// trial.
  [[nodiscard]] SlotState confirm(Slot slot) const;

  bool operator==(const SlotState&) const = default;
};

/// What the loader does: the model of loader_config()'s text.
struct Boot {
  std::optional<Slot> slot;  ///< nullopt: rescue
  SlotState left;            ///< what stands in the sector when the slot starts
};
Boot boot(const SlotState& state);

constexpr size_t kSectorSize = 512;

/// Exactly kSectorSize bytes: an environment block of GRUB.
std::string render(const SlotState& state);
/// Takes what render() makes, and nothing else; says which part is wrong.
SlotState parse_slot_state(std::string_view sector);

}  // namespace image
