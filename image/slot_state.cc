#include "image/slot_state.h"

#include <charconv>
#include <format>
#include <utility>

#include "base/error.h"

namespace image {
namespace {

// GRUB 2.12, include/grub/lib/envblk.h: a file that begins with this line, then NAME=VALUE lines, then '#' to
// its end.
constexpr std::string_view kSignature = "# GRUB Environment Block\n";
constexpr std::array<std::string_view, 3> kHealths = {"bad", "trial", "confirmed"};

SlotState next(SlotState state) {
  state.sequence = state.sequence == SlotState::kLastSequence ? 0 : state.sequence + 1;
  return state;
}

SlotHealth& mutable_at(SlotState& state, Slot slot) { return state.slots[static_cast<size_t>(slot)]; }

/// Takes "NAME=VALUE\n" off the front of `text`.
std::string_view take(std::string_view& text, std::string_view key) {
  size_t end = text.find('\n');
  std::string_view line = text.substr(0, end);
  if (end == std::string_view::npos || !line.starts_with(key) || !line.substr(key.size()).starts_with('=')) {
    throw base::error("the slot state lacks its line {}=", key);
  }
  text.remove_prefix(end + 1);
  return line.substr(key.size() + 1);
}

/// A number as render() writes it: `digits` long.
uint32_t number(std::string_view key, std::string_view value, size_t digits, uint32_t most) {
  uint32_t result = 0;
  auto [end, problem] = std::from_chars(value.data(), value.data() + value.size(), result);
  if (value.size() != digits || problem != std::errc() || end != value.data() + value.size() ||
      result > most) {
    throw base::error("the slot state's {} is not a number of {} digits up to {}", key, digits, most);
  }
  return result;
}

SlotHealth take_slot(std::string_view& text, Slot slot) {
  SlotHealth result;
  std::string key = std::format("{}_health", name(slot));
  std::string_view health = take(text, key);
  size_t k = 0;
  while (k < kHealths.size() && kHealths[k] != health) k++;
  if (k == kHealths.size()) throw base::error("the slot state's {} is none of bad, trial, confirmed", key);
  result.health = static_cast<Health>(k);
  key = std::format("{}_tries", name(slot));
  result.tries = static_cast<int>(number(key, take(text, key), 1, kMostTries));
  if (result.health == Health::kBad && result.tries != 0) {
    throw base::error("the slot state's {} is not 0, and the slot is bad", key);
  }
  return result;
}

}  // namespace

Slot other(Slot slot) { return slot == Slot::kA ? Slot::kB : Slot::kA; }

std::string_view name(Slot slot) { return slot == Slot::kA ? "a" : "b"; }

SlotState SlotState::mark_bad(Slot slot) const {
  const SlotHealth& rest = at(other(slot));
  if (at(slot).health != Health::kBad && (rest.health != Health::kConfirmed || !rest.bootable())) {
    throw base::error("slot {} cannot be marked bad: slot {} is not confirmed or has no tries left",
                      name(slot), name(other(slot)))
        .hint("confirm the other slot first, or install the node anew over the network");
  }
  SlotState after = next(*this);
  mutable_at(after, slot) = {};
  return after;
}

SlotState SlotState::activate(Slot slot, int tries) const {
  if (at(slot).health != Health::kBad) {
    throw base::error("slot {} cannot be activated: it was not marked bad before it was written to",
                      name(slot));
  }
  if (tries < 1 || tries > kMostTries)
    throw base::error("a slot has 1 to {} tries, not {}", kMostTries, tries);
  SlotState after = next(*this);
  mutable_at(after, slot) = {.health = Health::kTrial, .tries = tries};
  after.first = slot;
  return after;
}

SlotState SlotState::confirm(Slot slot) const {
  if (at(slot).health == Health::kBad)
    throw base::error("slot {} cannot be confirmed: it is marked bad", name(slot));
  SlotState after = next(*this);
  mutable_at(after, slot) = {.health = Health::kConfirmed, .tries = kMostTries};
  return after;
}

Boot boot(const SlotState& state) {
  for (Slot slot : {state.first, other(state.first)}) {
    if (!state.at(slot).bootable()) continue;
    SlotState left = state;
    mutable_at(left, slot).tries--;
    return {.slot = slot, .left = left};
  }
  return {.slot = std::nullopt, .left = state};
}

std::string render(const SlotState& state) {
  std::string text(kSignature);
  text += std::format("drover_slots=1\nfirst={}\n", name(state.first));
  for (Slot slot : {Slot::kA, Slot::kB}) {
    const SlotHealth& health = state.at(slot);
    text += std::format("{0}_health={1}\n{0}_tries={2}\n", name(slot),
                        kHealths[static_cast<size_t>(health.health)], health.tries);
  }
  text += std::format("sequence={:08}\n", state.sequence);
  text.resize(kSectorSize, '#');
  return text;
}

SlotState parse_slot_state(std::string_view sector) {
  if (sector.size() != kSectorSize)
    throw base::error("the slot state has {} bytes, not {}", sector.size(), kSectorSize);
  if (!sector.starts_with(kSignature))
    throw base::error("the slot state does not begin as an environment block of GRUB does");
  std::string_view text = sector.substr(kSignature.size());
  if (take(text, "drover_slots") != "1") throw base::error("the slot state is of another version than 1");
  SlotState state;
  std::string_view first = take(text, "first");
  if (first != "a" && first != "b") throw base::error("the slot state's first is neither a nor b");
  state.first = first == "a" ? Slot::kA : Slot::kB;
  for (Slot slot : {Slot::kA, Slot::kB}) mutable_at(state, slot) = take_slot(text, slot);
  state.sequence = number("sequence", take(text, "sequence"), 8, SlotState::kLastSequence);
  if (text.find_first_not_of('#') != std::string_view::npos)
    throw base::error("the slot state does not end in # alone");
  return state;
}

}  // namespace image
