#pragma once
#include <vector>

#include "image/slot_state.h"

namespace image {

/// All that a slot can be, and all that two slots can be (sequence 7).
inline std::vector<SlotHealth> every_health() {
  std::vector<SlotHealth> all = {{}};
  for (Health health : {Health::kTrial, Health::kConfirmed}) {
    for (int tries = 0; tries <= kMostTries; tries++) all.push_back({.health = health, .tries = tries});
  }
  return all;
}

inline std::vector<SlotState> every_state() {
  std::vector<SlotState> all;
  for (Slot first : {Slot::kA, Slot::kB}) {
    for (const SlotHealth& a : every_health()) {
      for (const SlotHealth& b : every_health())
        all.push_back({.first = first, .slots = {a, b}, .sequence = 7});
    }
  }
  return all;
}

}  // namespace image
