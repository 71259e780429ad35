// The handover is searched for a state in which the box runs twice, or can never run again; and the search is
// shown to find one where a rule is changed. What is searched is in handover_model.h;
// docs/formats/move-journal.md says what it covers and what not.

#include "tests/unit/migrate/handover_model.h"

#include <gtest/gtest.h>

#include <iostream>

namespace {

using box::MoveStep;
using migrate::Decided;
using migrate::Fate;
using migrate::Holding;
using migrate::Resume;
using migrate::Taken;
using migrate::Verdict;
using model::Found;
using model::Limits;
using model::Protocol;

std::string text(const Found& found) {
  std::string out;
  for (const auto& step : found.trace) out += "  " + step + "\n";
  return out + "=> " + found.law + "\n";
}

void expect_sound(const Limits& limits) {
  const Found found = model::search({}, limits);
  EXPECT_EQ(found.law, "") << text(found);
  EXPECT_GT(found.states, 1000U);
  std::cout << found.states << " states\n";
}

TEST(HandoverModel, OneMove) { expect_sound({.nodes = 2, .moves = 1}); }

/// Also: a second move after one that was cut off, and all of its late messages.
TEST(HandoverModel, ThereAndBack) { expect_sound({.nodes = 2, .moves = 2}); }

/// One that has an old copy, or has not heard of it, hears of a box that is somewhere else by now.
TEST(HandoverModel, OnToAThirdNode) {
  expect_sound({.nodes = 3, .moves = 2, .destroys = false, .power_cuts = false, .onward = true});
}

/// Post-copy: the source's copy has the memory until the destination has all of it.
TEST(HandoverModel, MemoryFollows) { expect_sound({.nodes = 2, .moves = 1, .lazy = true}); }

struct Mutation {
  const char* name;
  void (*change)(Protocol&);
  const char* law;  ///< what is broken then: the beginning of the sentence
  Limits limits = {.nodes = 2, .moves = 1};
};

const Mutation kMutations[] = {
    {"DestinationRunsItWhenTheLinkIsLost", [](Protocol& p) { p.lost = Fate::kTakenOver; },
     "the box runs on B and on A"},
    {"DestinationDropsItWhenTheLinkIsLost", [](Protocol& p) { p.lost = Fate::kDropped; },
     "the move stays unfinished on A"},
    {"RecoverRunsWhatIsPrepared",
     [](Protocol& p) {
       p.resume_of_arriving = [](std::optional<MoveStep> step) {
         return step == MoveStep::kPrepared ? Resume::kGoOn : migrate::resume_of_arriving(step);
       };
     },
     "the box runs on B and on A"},
    {"RecoverDropsWhatIsPrepared",
     [](Protocol& p) {
       p.resume_of_arriving = [](std::optional<MoveStep> step) {
         return step == MoveStep::kPrepared ? Resume::kDrop : migrate::resume_of_arriving(step);
       };
     },
     "the move stays unfinished on A"},
    {"RecoverResumesWhatWasGiven",
     [](Protocol& p) {
       p.resume_of_box = [](std::optional<MoveStep> step) {
         return step == MoveStep::kGiven ? Resume::kKeep : migrate::resume_of_box(step);
       };
     },
     "the box runs on A and on B"},
    {"SourceGivesWhatIsLeaving",
     [](Protocol& p) {
       p.whose = [](const Holding& h, uint64_t epoch, bool locked) {
         return h.step == MoveStep::kLeaving && h.same_move ? Verdict::kGiven
                                                            : migrate::whose(h, epoch, locked);
       };
     },
     "the box runs on B and on A"},
    {"SourceKeepsWhatACommandIsMoving",
     [](Protocol& p) {
       p.whose = [](const Holding& h, uint64_t epoch, bool) { return migrate::whose(h, epoch, true); };
     },
     "the move stays unfinished on A"},
    {"SourceKnowsNothingOfABoxThatWentOn",
     [](Protocol& p) {
       p.whose = [](const Holding& h, uint64_t epoch, bool locked) {
         return h.here ? migrate::whose(h, epoch, locked) : Verdict::kUnknown;
       };
     },
     "a frozen copy stays on B for ever",
     {.nodes = 3, .moves = 2, .destroys = false, .power_cuts = false, .onward = true}},
    {"SourceKnowsNothingOfABoxThatItDestroyed",
     [](Protocol& p) {
       p.whose = [](const Holding& h, uint64_t epoch, bool locked) {
         return h.here ? migrate::whose(h, epoch, locked) : Verdict::kUnknown;
       };
     },
     "a frozen copy stays on B for ever"},
    {"SourceKeepsWhatItGave",
     [](Protocol& p) {
       p.whose = [](const Holding& h, uint64_t epoch, bool locked) {
         const Verdict verdict = migrate::whose(h, epoch, locked);
         return verdict == Verdict::kGiven ? Verdict::kKept : verdict;
       };
     },
     "the move stays unfinished on A"},
    {"DestinationForgetsWhatWentOn",
     [](Protocol& p) {
       p.decided = [](const Holding& h, Verdict verdict, uint64_t epoch) {
         Holding without = h;
         without.left = {};
         return migrate::decided(without, verdict, epoch);
       };
     },
     "the move stays unfinished on A",
     {.nodes = 3, .moves = 2, .destroys = false, .power_cuts = false, .onward = true}},
    {"DestinationDropsWhatWasGiven",
     [](Protocol& p) {
       p.decided = [](const Holding& h, Verdict verdict, uint64_t epoch) {
         return h.arriving && h.step != MoveStep::kMine && verdict == Verdict::kGiven
                    ? Decided{Fate::kDropped, Verdict::kKept}
                    : migrate::decided(h, verdict, epoch);
       };
     },
     "the move stays unfinished on A"},
    {"DestinationDropsItOnAnyAnswer",
     [](Protocol& p) { p.fate_after = [](Verdict) { return Fate::kDropped; }; },
     "the move stays unfinished on A"},
    {"DestinationRunsItOnAnyAnswer",
     [](Protocol& p) { p.fate_after = [](Verdict) { return Fate::kTakenOver; }; },
     "the box runs on B and on A"},

    {"AnswersBeforeGivenIsOnDisk", [](Protocol& p) { p.look_syncs = false; },
     "the box runs on B while it is A's"},
    {"CommitsBeforeGivenIsOnDisk", [](Protocol& p) { p.given_syncs = false; },
     "the box runs on B while it is A's"},
    {"ResumesWhenGivenMayBeOnDisk", [](Protocol& p) { p.doubt_is_given = false; },
     "the box runs on A while it is B's"},
    {"SaysPreparedBeforeItIsOnDisk", [](Protocol& p) { p.prepared_syncs = false; },
     "the move stays unfinished on A"},
    {"RunsBeforeMineIsOnDisk", [](Protocol& p) { p.mine_syncs = false; },
     "what has arrived on B stays there for ever"},
    {"ForgetsBeforeItIsConfirmed", [](Protocol& p) { p.forget_waits = false; },
     "a frozen copy stays on B for ever"},
    {"PreparedBeforeTheFreezerHasIt", [](Protocol& p) { p.freezes_first = false; },
     "B has written prepared, and the box may run already"},
    {"SourceForgetsWhenTheBoxRuns",
     [](Protocol& p) { p.memory_waits = false; },
     "memory that was still on its way was forgotten",
     {.nodes = 2, .moves = 1, .lazy = true}},
    {"SourceIsToldThatItRunsWhileMemoryFollows",
     [](Protocol& p) { p.answer_after = [](Taken) { return Verdict::kRunning; }; },
     "memory that was still on its way was forgotten",
     {.nodes = 2, .moves = 1, .lazy = true}},
    {"RecoverKillsTheCopyThatHasTheMemory",
     [](Protocol& p) { p.copy_waits = false; },
     "memory that was still on its way was forgotten",
     {.nodes = 2, .moves = 1, .lazy = true}},
    {"TheMoveEndsWhileMemoryFollows",
     [](Protocol& p) {
       p.goes_on = [](MoveStep step, bool lazy, bool processes, bool brought) {
         const Taken taken = migrate::goes_on(step, lazy, processes, brought);
         return taken == Taken::kMemoryFollows ? Taken::kWhole : taken;
       };
     },
     "memory that was still on its way was forgotten",
     {.nodes = 2, .moves = 1, .lazy = true}},
    {"GoesOnWhenTheBringerOfItsMemoryIsDead",
     [](Protocol& p) {
       p.goes_on = [](MoveStep step, bool lazy, bool processes, bool) {
         return migrate::goes_on(step, lazy, processes, true);
       };
     },
     "the box was let run, and nobody brings the memory it lacks",
     {.nodes = 2, .moves = 1, .lazy = true}},
    {"NobodyGuardsWhatLacksMemory",
     [](Protocol& p) { p.guarded = false; },
     "the box runs on B with memory that is missing",
     {.nodes = 2, .moves = 1, .lazy = true}},

    {"CriuHoldsItNotTheFreezer", [](Protocol& p) { p.freezer_holds = false; },
     "the box runs on A while it is B's"},
};

void PrintTo(const Mutation& mutation, std::ostream* out) { *out << mutation.name; }

class HandoverMutation : public testing::TestWithParam<Mutation> {};

TEST_P(HandoverMutation, IsFound) {
  Protocol protocol;
  GetParam().change(protocol);
  const Found found = model::search(protocol, GetParam().limits);
  ASSERT_NE(found.law, "") << "the search finds nothing wrong in " << found.states << " states";
  std::cout << text(found);
  EXPECT_TRUE(found.law.starts_with(GetParam().law)) << found.law;
}

INSTANTIATE_TEST_SUITE_P(Rules, HandoverMutation, testing::ValuesIn(kMutations),
                         [](const auto& one) { return std::string(one.param.name); });

}  // namespace
