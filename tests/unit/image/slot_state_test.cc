#include "image/slot_state.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <format>
#include <functional>

#include "base/error.h"
#include "base/fd.h"
#include "tests/unit/image/states.h"

namespace image {
namespace {

std::string text(const SlotState& state) {
  auto slot = [](const SlotHealth& health) {
    return std::string(health.health == Health::kBad     ? "bad"
                       : health.health == Health::kTrial ? "trial"
                                                         : "confirmed") +
           "/" + std::to_string(health.tries);
  };
  return std::format("first {}, a {}, b {}", name(state.first), slot(state.at(Slot::kA)),
                     slot(state.at(Slot::kB)));
}

bool can_boot(const SlotState& state) { return boot(state).slot.has_value(); }

/// nullopt: refused.
std::optional<SlotState> attempt(const std::function<SlotState()>& event) {
  try {
    return event();
  } catch (const base::Error&) {
    return std::nullopt;
  }
}

// The table of docs/formats/slot-state.md, read from there: its rows are FIRST slot, OTHER slot, and what
// follows.
std::vector<std::vector<std::string>> written_table() {
  std::vector<std::vector<std::string>> rows;
  std::string page = base::read_file("docs/formats/slot-state.md");
  size_t at = page.find("| first |");
  EXPECT_NE(at, std::string::npos);
  for (int line = 0; page.compare(at, 1, "|") == 0; line++) {
    size_t end = page.find('\n', at);
    std::vector<std::string> cells;
    for (size_t from = at + 1, bar; (bar = page.find('|', from)) < end; from = bar + 1) {
      std::string cell = page.substr(from, bar - from);
      cell.erase(0, cell.find_first_not_of(' '));
      cell.erase(cell.find_last_not_of(' ') + 1);
      cells.push_back(cell);
    }
    if (line >= 2) rows.push_back(cells);
    at = end + 1;
  }
  return rows;
}

std::string cell_of(const SlotHealth& health) {
  if (health.health == Health::kBad) return "bad";
  return std::format("{} {}", health.health == Health::kTrial ? "trial" : "confirmed",
                     health.tries > 0 ? "n" : "0");
}

/// The row of the table for `state`, as the code has it.
std::vector<std::string> row_of(const SlotState& state) {
  Slot first = state.first, second = other(first);
  auto who = [&](Slot slot) { return slot == first ? "first" : "other"; };
  auto after = [&](const std::function<SlotState()>& event) -> std::string {
    std::optional<SlotState> left = attempt(event);
    if (!left) return "refused";
    std::optional<Slot> next = boot(*left).slot;
    return next ? who(*next) : "rescue";
  };
  Boot next = boot(state);
  return {cell_of(state.at(first)),
          cell_of(state.at(second)),
          next.slot ? who(*next.slot) : "rescue",
          after([&] { return state.confirm(first); }),
          after([&] { return state.confirm(second); }),
          after([&] { return state.mark_bad(first); }),
          after([&] { return state.mark_bad(second); }),
          after([&] { return state.activate(first, 1); }),
          after([&] { return state.activate(second, 1); })};
}

TEST(SlotState, IsAsTheWrittenTableHasIt) {
  std::vector<std::vector<std::string>> rows = written_table();
  EXPECT_EQ(rows.size(), 25U);
  for (const SlotState& state : every_state()) {
    std::vector<std::string> row = row_of(state);
    auto of_state = [&](const auto& written) { return written.at(0) == row[0] && written.at(1) == row[1]; };
    auto written = std::ranges::find_if(rows, of_state);
    std::string line = "|";
    for (const std::string& cell : row) line += " " + cell + " |";
    ASSERT_NE(written, rows.end()) << line;
    EXPECT_EQ(*written, row) << text(state) << "\n" << line;
  }
}

TEST(SlotState, EventsChangeWhatTheySayAndNothingElse) {
  for (const SlotState& before : every_state()) {
    for (Slot slot : {Slot::kA, Slot::kB}) {
      SlotState expected = before;
      expected.sequence = before.sequence + 1;
      SlotHealth& health = expected.slots[static_cast<size_t>(slot)];
      health = {.health = Health::kConfirmed, .tries = kMostTries};
      EXPECT_EQ(attempt([&] { return before.confirm(slot); }).value_or(expected), expected) << text(before);
      health = {};
      EXPECT_EQ(attempt([&] { return before.mark_bad(slot); }).value_or(expected), expected) << text(before);
      health = {.health = Health::kTrial, .tries = 2};
      expected.first = slot;
      EXPECT_EQ(attempt([&] { return before.activate(slot, 2); }).value_or(expected), expected)
          << text(before);
    }
  }
}

TEST(SlotState, NoEventOfTheNodeTakesTheLastSlotThatBoots) {
  int allowed = 0;
  for (const SlotState& before : every_state()) {
    for (Slot slot : {Slot::kA, Slot::kB}) {
      for (const auto& after :
           {attempt([&] { return before.confirm(slot); }), attempt([&] { return before.mark_bad(slot); }),
            attempt([&] { return before.activate(slot, 1); })}) {
        if (!after) continue;
        allowed++;
        EXPECT_TRUE(!can_boot(before) || can_boot(*after)) << text(before) << " -> " << text(*after);
      }
    }
  }
  EXPECT_GT(allowed, 300);
}

TEST(SlotState, TheLastConfirmedSlotIsNeverGivenUp) {
  for (const SlotState& before : every_state()) {
    for (Slot slot : {Slot::kA, Slot::kB}) {
      if (before.at(slot).health != Health::kConfirmed || before.at(other(slot)).health == Health::kConfirmed)
        continue;
      EXPECT_THROW(static_cast<void>(before.mark_bad(slot)), base::Error) << text(before);
      EXPECT_THROW(static_cast<void>(before.activate(slot, 1)), base::Error) << text(before);
    }
  }
}

TEST(SlotState, ActivateWantsOneToThreeTries) {
  EXPECT_THROW(static_cast<void>(SlotState{}.activate(Slot::kA, 0)), base::Error);
  EXPECT_THROW(static_cast<void>(SlotState{}.activate(Slot::kA, 4)), base::Error);
  EXPECT_EQ(SlotState{}.activate(Slot::kA, 3).at(Slot::kA).tries, 3);
}

TEST(SlotState, TheSequenceBeginsAnew) {
  SlotState state;
  state.sequence = SlotState::kLastSequence;
  EXPECT_EQ(state.activate(Slot::kA, 1).sequence, 0U);
}

// What becomes of an update, whatever befalls the new slot: the words of the issue, event by event.
struct Fate {
  const char* name;
  std::vector<const char*> starts;                     ///< which slot each round of the machine starts
  std::function<SlotState(SlotState, Slot)> in_round;  ///< what happens to the state while a slot runs
};

TEST(SlotState, AnUpdateThatDoesNotComeUpFallsBack) {
  auto good_a = [](const SlotState& state, Slot slot) {
    return slot == Slot::kA ? state.confirm(slot) : state;
  };
  const std::vector<Fate> fates = {
      {"boot ok", {"b", "b", "b"}, [](SlotState state, Slot slot) { return state.confirm(slot); }},
      // A panic, a hang that the watchdog ends and a power cut all end the round, with nothing written.
      {"panic, hang, power cut", {"b", "a", "a", "a", "a"}, good_a},
      {"health fail",
       {"b", "a", "a"},
       [](SlotState state, Slot slot) {
         return slot == Slot::kA ? state.confirm(slot) : state.mark_bad(slot);
       }},
      {"power cuts in all rounds",
       {"b", "a", "a", "a", "rescue", "rescue"},
       [](SlotState state, Slot) { return state; }},
  };
  SlotState confirmed = SlotState{}.activate(Slot::kA, 3).confirm(Slot::kA);
  for (const Fate& fate : fates) {
    SlotState state = confirmed.mark_bad(Slot::kB).activate(Slot::kB, 1);
    for (const char* expected : fate.starts) {
      Boot round = boot(state);
      EXPECT_EQ(round.slot ? name(*round.slot) : "rescue", expected) << fate.name << ": " << text(state);
      state = round.slot ? fate.in_round(round.left, *round.slot) : round.left;
    }
  }
}

TEST(SlotState, ASecondUpdateWaitsUntilTheFirstIsConfirmed) {
  SlotState confirmed = SlotState{}.activate(Slot::kA, 3).confirm(Slot::kA);
  SlotState on_trial = boot(confirmed.mark_bad(Slot::kB).activate(Slot::kB, 1)).left;
  EXPECT_THROW(static_cast<void>(on_trial.mark_bad(Slot::kA)), base::Error);
  SlotState second = on_trial.confirm(Slot::kB).mark_bad(Slot::kA).activate(Slot::kA, 1);
  EXPECT_EQ(boot(second).slot, Slot::kA);
  EXPECT_EQ(boot(boot(second).left).slot, Slot::kB);
}

TEST(SlotSector, HoldsEveryState) {
  for (const SlotState& state : every_state()) {
    std::string sector = render(state);
    EXPECT_EQ(sector.size(), kSectorSize);
    EXPECT_EQ(parse_slot_state(sector), state) << text(state);
  }
}

std::string replaced(std::string sector, std::string_view from, std::string_view to) {
  size_t at = sector.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  sector.replace(at, from.size(), to);
  sector.resize(kSectorSize, '#');
  return sector;
}

TEST(SlotSector, EverythingElseIsRefusedByName) {
  const std::string good = render(SlotState{}.activate(Slot::kA, 3));
  struct {
    std::string sector, says;
  } const cases[] = {
      {"", "has 0 bytes, not 512"},
      {good + "#", "has 513 bytes, not 512"},
      {std::string(kSectorSize, '\0'), "does not begin as an environment block"},
      {replaced(good, "Block\n", "Block "), "does not begin as an environment block"},
      {replaced(good, "drover_slots=1\n", ""), "lacks its line drover_slots="},
      {replaced(good, "drover_slots=1", "drover_slots=2"), "another version than 1"},
      {replaced(good, "first=a", "first=c"), "first is neither a nor b"},
      {replaced(good, "first=a\n", "first=a\nx=1\n"), "lacks its line a_health="},
      {replaced(good, "a_health=trial", "a_health=fine"), "a_health is none of bad, trial, confirmed"},
      {replaced(good, "a_tries=3", "a_tries=4"), "a_tries is not a number of 1 digits up to 3"},
      {replaced(good, "a_tries=3", "a_tries="), "a_tries is not a number"},
      {replaced(good, "a_tries=3", "a_tries=03"), "a_tries is not a number"},
      {replaced(good, "a_tries=3", "a_tries=-"), "a_tries is not a number"},
      {replaced(good, "b_tries=0", "b_tries=1"), "b_tries is not 0, and the slot is bad"},
      {replaced(good, "sequence=0", "sequence="), "sequence is not a number of 8 digits"},
      {replaced(good, "sequence=0", "sequence=x"), "sequence is not a number of 8 digits"},
      {replaced(good, "sequence=00000001\n", "sequence=00000001"), "lacks its line sequence="},
      {replaced(good, "####", "##x#"), "does not end in # alone"},
  };
  for (const auto& [sector, says] : cases) {
    try {
      parse_slot_state(sector);
      ADD_FAILURE() << "taken: " << says;
    } catch (const base::Error& error) {
      EXPECT_NE(error.message().find(says), std::string::npos) << error.message() << "\nexpected: " << says;
    }
  }
}

TEST(SlotSector, NoFlippedBitMakesAnotherHealthOutOfOne) {
  // Without a checksum (the loader could not keep one) a bit can change a digit or a letter; a slot's health
  // it cannot.
  for (const SlotState& state : every_state()) {
    const std::string good = render(state);
    for (size_t bit = 0; bit < kSectorSize * 8; bit++) {
      std::string sector = good;
      sector[bit / 8] = static_cast<char>(sector[bit / 8] ^ (1 << (bit % 8)));
      try {
        SlotState read = parse_slot_state(sector);
        for (Slot slot : {Slot::kA, Slot::kB})
          EXPECT_EQ(read.at(slot).health, state.at(slot).health) << text(state);
      } catch (const base::Error&) {
      }
    }
  }
}

}  // namespace
}  // namespace image
