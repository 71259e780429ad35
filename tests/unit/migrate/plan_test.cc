#include "migrate/plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <random>

namespace migrate {
namespace {

using Next = Plan::Next;

constexpr double kLink = 400e6;  ///< bytes per second

BoxSize box_of(uint64_t bytes, unsigned processes = 1) {
  return {.memory_bytes = bytes, .small_pages = bytes / 4096, .processes = processes};
}

/// What the box writes to in so many ms.
using Writes = std::function<double(double ms)>;

/// New pages at a constant rate, up to all of `most`.
Writes steady(double bytes_per_second, double most) {
  return [=](double ms) { return std::min(most, bytes_per_second * ms / 1e3); };
}
/// A working set of which each page is as likely as any other to be written to next.
Writes working_set(double bytes, double bytes_per_second) {
  return [=](double ms) { return bytes * (1 - std::exp(-bytes_per_second * ms / 1e3 / bytes)); };
}

/// What the source does with a plan, on a wire that carries `link`.
struct Move {
  Plan plan;
  double sent = 0, ms = 0;
  Next end = Next::kRound;

  Move(const Goal& goal, const BoxSize& size, const Writes& writes, double link = kLink)
      : plan(goal.resolved(true), size) {
    while ((end = plan.next()) == Next::kRound) {
      if (plan.rounds() > 10000) throw base::error("no end of rounds");
      const uint64_t bytes = plan.dirty();
      const double round_ms = static_cast<double>(bytes) / link * 1e3 + 0.5;
      sent += static_cast<double>(bytes);
      ms += round_ms;
      plan.sent({bytes, bytes, round_ms}, static_cast<uint64_t>(writes(round_ms)));
    }
  }
};

TEST(PlanMode, NamesAreReadAsTheyAreWritten) {
  for (const Mode mode : {Mode::kStop, Mode::kPrecopy, Mode::kPostcopy, Mode::kHybrid, Mode::kAuto})
    EXPECT_EQ(parse_mode(to_string(mode)), mode);
}

TEST(PlanMode, AnotherNameIsAUsageError) {
  for (const std::string name : {"", "Precopy", "lazy", "stop ", "?"}) {
    try {
      parse_mode(name);
      FAIL() << name;
    } catch (const base::Error& e) {
      EXPECT_EQ(e.exit(), base::Exit::kUsage);
      EXPECT_NE(e.hint().find("hybrid"), std::string::npos);
    }
  }
}

TEST(PlanMode, AutoIsPrecopyWhereWritesCanBeTracked) {
  EXPECT_EQ(Goal{}.resolved(true).mode, Mode::kPrecopy);
  EXPECT_EQ(Goal{}.resolved(false).mode, Mode::kStop);
  EXPECT_TRUE(Goal{}.resolved(false).by_auto);
  EXPECT_TRUE(Goal{}.resolved(false).resolved(true).by_auto) << "stays so";
  EXPECT_EQ(Goal{}.resolved(false).resolved(true).mode, Mode::kStop);
  EXPECT_FALSE(Goal{.mode = Mode::kStop}.resolved(true).by_auto);
}

TEST(PlanMode, AutoHasToBeDecidedFirst) { EXPECT_THROW(Plan(Goal{}, box_of(1)), base::Error); }

TEST(PlanFreeze, GrowsWithProcessesPagesAndDirtyMemory) {
  const Goal goal = {.mode = Mode::kPrecopy};
  const auto freeze = [&](const BoxSize& size, uint64_t dirty) {
    Plan plan(goal, size);
    plan.sent({size.memory_bytes, size.memory_bytes, 1e3}, dirty);  // bandwidth: all of it in a second
    return plan.freeze_ms();
  };
  const double one = freeze(box_of(100'000'000), 0);
  EXPECT_GT(freeze(box_of(100'000'000, 22), 0), one + 100);
  EXPECT_GT(freeze(box_of(1'000'000'000), 0), one + 10);
  EXPECT_NEAR(freeze(box_of(100'000'000), 10'000'000), one + 100, 0.1);
}

TEST(PlanFreeze, IsLongerWhereCriuIsSlow) {
  EXPECT_EQ(criu_start_of(10, 10), 10);
  EXPECT_EQ(criu_start_of(5, 15), 10) << "the dump on one node, the restore on the other";
  for (const Mode mode : {Mode::kStop, Mode::kPrecopy, Mode::kPostcopy, Mode::kHybrid}) {
    const auto freeze = [&](double start) {
      return Plan({.mode = mode}, {.processes = 10, .criu_start_ms = start}).freeze_ms();
    };
    EXPECT_NEAR(freeze(20), 4 * freeze(5), 0.1);
  }
}

TEST(PlanFreeze, TheOtherNodesWordForItHasBounds) {
  for (const double unknown : {0.0, -1.0, std::nan("")}) {
    EXPECT_EQ(criu_start_of(70, unknown), 70) << "what is known counts";
    EXPECT_EQ(criu_start_of(unknown, 70), 70);
    EXPECT_EQ(criu_start_of(unknown, unknown), criu_start_of(0, 0));
  }
  for (const double bad : {1e-300, 1e300, std::numeric_limits<double>::infinity()}) {
    EXPECT_GE(criu_start_of(1e-9, bad), 0.5);
    EXPECT_LE(criu_start_of(5, bad), 200);
  }
}

TEST(PlanFreeze, CountsTheWaitForRequests) {
  for (const Mode mode : {Mode::kStop, Mode::kPrecopy, Mode::kPostcopy, Mode::kHybrid})
    EXPECT_GE(Plan({.mode = mode}, {.requests = true}).freeze_ms(),
              Plan({.mode = mode}, {}).freeze_ms() + 10);
}

TEST(PlanFreeze, HugePagesAreFewer) {
  const Goal goal = {.mode = Mode::kPostcopy};
  const Plan small(goal, {.memory_bytes = 4ULL << 30, .small_pages = 1 << 20});
  const Plan huge(goal, {.memory_bytes = 4ULL << 30, .huge_pages = 2048});
  EXPECT_LT(huge.freeze_ms() + 20, small.freeze_ms());
}

TEST(PlanFreeze, CountsAnImageInEachMode) {
  for (const Mode mode : {Mode::kStop, Mode::kPrecopy, Mode::kPostcopy, Mode::kHybrid}) {
    const Goal goal = {.mode = mode};
    const Plan none(goal, {}), image(goal, {.image_bytes = 2'000'000'000});
    EXPECT_NEAR(image.freeze_ms(), none.freeze_ms() + 720, 0.1);
  }
  const Plan image({.mode = Mode::kPrecopy}, {.image_bytes = 2'000'000'000});
  EXPECT_EQ(image.next(), Plan::Next::kCannot);
  EXPECT_NE(image.refusal("web1", "node2").message().find("and 2000 MB of an image to compare"),
            std::string::npos);
}

TEST(PlanFreeze, CountsSharedMemoryInEachMode) {
  for (const Mode mode : {Mode::kStop, Mode::kPrecopy, Mode::kPostcopy, Mode::kHybrid}) {
    Plan none({.mode = mode}, {}), shared({.mode = mode}, {.shared_bytes = 400'000'000});
    for (Plan* plan : {&none, &shared}) plan->carried({400'000'000, 400'000'000, 1e3});
    EXPECT_GT(shared.freeze_ms(), none.freeze_ms() + 1000) << to_string(mode) << ": a second on the wire";
    for (Plan* plan : {&none, &shared}) plan->noise({40'000'000, 40'000'000, 1e3});
    EXPECT_GT(shared.freeze_ms(), none.freeze_ms() + 10'000) << to_string(mode) << ": it is packed worse";
  }
  Plan plan({.mode = Mode::kPostcopy, .max_downtime_ms = 2000}, {.shared_bytes = 400'000'000});
  EXPECT_EQ(plan.next(), Next::kFreeze) << "the wire may be fast";
  plan.carried({70'000, 70'000, 50});
  EXPECT_EQ(plan.next(), Next::kCannot) << "nothing will tell any more";
  plan.carried({64 << 20, 64 << 20, 20});
  EXPECT_EQ(plan.next(), Next::kFreeze) << "it is fast";
  plan.carried({64 << 20, 64 << 20, 1e3});
  EXPECT_EQ(plan.next(), Next::kCannot);
  EXPECT_NE(plan.refusal("web1", "node2").message().find("400 MB of shared memory"), std::string::npos);
  Plan forced({.mode = Mode::kPostcopy, .force = true}, {.shared_bytes = 400'000'000});
  EXPECT_EQ(forced.next(), Next::kFreeze);
}

TEST(PlanFreeze, CountsFilesThatAreReadAnewHoweverLittleOfThemDiffers) {
  for (const Mode mode : {Mode::kStop, Mode::kPrecopy, Mode::kPostcopy, Mode::kHybrid}) {
    Plan plan({.mode = mode, .by_auto = true}, box_of(1'000'000));
    plan.carried({100'000'000, 100'000'000, 1e3});
    plan.sent({1'000'000, 1'000'000, 10}, 0);
    EXPECT_EQ(plan.next(), Next::kFreeze) << to_string(mode);
    const double before = plan.freeze_ms();
    plan.files(40'000, 10'000'000'000);
    EXPECT_NEAR(plan.freeze_ms(), before + 3600, 10) << to_string(mode);
    EXPECT_EQ(plan.next(), Next::kCannot) << to_string(mode);
    EXPECT_TRUE(
        plan.refusal("web1", "node2").message().contains("10000 MB of files that it writes to, to compare"))
        << plan.refusal("web1", "node2").message();
  }
}

TEST(PlanFreeze, CountsWhatIsWrittenWhileFilesAreSent) {
  Plan plan({.mode = Mode::kPrecopy}, box_of(1'000'000'000));
  plan.sent({1'000'000'000, 1'000'000'000, 10e3}, 1'000'000);
  EXPECT_EQ(plan.next(), Next::kFreeze);
  plan.waited(5e3, 40'000'000);
  EXPECT_GT(plan.freeze_ms(), 400);
  EXPECT_NEAR(plan.dirty_rate(), 40e6 / 15, 1);
  EXPECT_EQ(plan.next(), Next::kRound);
  plan.sent({40'000'000, 40'000'000, 400}, 100'000);
  EXPECT_EQ(plan.next(), Next::kFreeze);
}

TEST(PlanFreeze, CountsFilesThatAreWrittenAsFastAsTheyAreSent) {
  for (const Mode mode : {Mode::kPostcopy, Mode::kHybrid}) {
    Plan plan({.mode = mode}, {});
    plan.carried({100'000'000, 100'000'000, 1e3});
    plan.sent({1000, 1000, 1}, 0);
    EXPECT_EQ(plan.next(), Next::kFreeze);
    plan.files(90'000'000, 0);
    EXPECT_EQ(plan.next(), Next::kCannot) << to_string(mode);
    EXPECT_NE(
        plan.refusal("web1", "node2").message().find("90 MB of shared memory, deleted files and written"),
        std::string::npos)
        << plan.refusal("web1", "node2").message();
  }
  // The dirty set of precopy's rounds has them.
  Plan plan({.mode = Mode::kPrecopy}, {});
  plan.carried({100'000'000, 100'000'000, 1e3});
  const double before = plan.freeze_ms();
  plan.files(90'000'000, 0);
  EXPECT_DOUBLE_EQ(plan.freeze_ms(), before);
}

TEST(PlanFreeze, DoesNotWaitForMemoryWhereThatFollows) {
  for (const Mode mode : {Mode::kPostcopy, Mode::kHybrid}) {
    Plan plan({.mode = mode}, box_of(1'000'000'000));
    const double before = plan.freeze_ms();
    plan.sent({1'000'000'000, 1'000'000'000, 1e4}, 500'000'000);
    EXPECT_DOUBLE_EQ(plan.freeze_ms(), before);
  }
}

TEST(PlanFreeze, OfStopHasAllMemoryToSendAndImagesToWrite) {
  const Plan stop({.mode = Mode::kStop}, box_of(1'000'000'000));
  const Plan precopy({.mode = Mode::kPrecopy}, box_of(1'000'000'000));
  EXPECT_GT(stop.freeze_ms(), precopy.freeze_ms() + 1000);
}

TEST(PlanFreeze, BeforeAnythingWasMeasuredASlowWireIsTaken) {
  Plan plan({.mode = Mode::kStop}, box_of(1'000'000'000));
  EXPECT_EQ(plan.bandwidth(), 0);
  const double guess = plan.freeze_ms();
  plan.carried({64 << 20, 64 << 20, 67.1});  // 1 GB/s
  EXPECT_NEAR(plan.bandwidth(), 1e9, 1e7);
  EXPECT_LT(plan.freeze_ms(), guess - 1000);
}

TEST(PlanBandwidth, ASmallPrivateLayerSaysNothingOfTheWire) {
  Plan plan({.mode = Mode::kPrecopy}, box_of(1'000'000'000));
  plan.carried({70'000, 70'000, 112});
  EXPECT_EQ(plan.bandwidth(), 0);
}

TEST(PlanBandwidth, ALateShortRoundDoesNotSpoilIt) {
  Plan plan({.mode = Mode::kPrecopy}, box_of(1'000'000'000));
  plan.sent({1'000'000'000, 1'000'000'000, 2500}, 4096);
  plan.sent({4096, 4096, 1.5}, 4096);  // alone: 2.7 MB/s
  EXPECT_NEAR(plan.bandwidth(), 400e6, 2e6);
}

TEST(PlanBandwidth, FollowsALinkThatBecomesSlower) {
  Plan plan({.mode = Mode::kPrecopy}, box_of(1'000'000'000));
  plan.sent({1'000'000'000, 1'000'000'000, 1000}, 1'000'000'000);
  for (int i = 0; i < 3; ++i) plan.sent({1'000'000'000, 1'000'000'000, 10000}, 1'000'000'000);
  EXPECT_LT(plan.bandwidth(), 110e6) << "on average it is 129";
}

TEST(PlanBandwidth, DirtyRateIsThatOfTheLastRound) {
  Plan plan({.mode = Mode::kPrecopy}, box_of(1'000'000'000));
  EXPECT_EQ(plan.dirty_rate(), 0);
  plan.sent({1'000'000'000, 1'000'000'000, 2000}, 100'000'000);
  EXPECT_DOUBLE_EQ(plan.dirty_rate(), 50e6);
  plan.sent({100'000'000, 100'000'000, 250}, 20'000'000);
  EXPECT_DOUBLE_EQ(plan.dirty_rate(), 80e6);
}

TEST(PlanPrecopy, AnIdleBoxIsFrozenAfterOneRound) {
  const Move move({}, box_of(1'000'000'000), steady(0, 0));
  EXPECT_EQ(move.end, Next::kFreeze);
  EXPECT_EQ(move.plan.rounds(), 1);
}

TEST(PlanPrecopy, MemoryIsNeverLeftOutHoweverLargeTheTarget) {
  const Plan plan({.mode = Mode::kPrecopy, .max_downtime_ms = kMostDowntimeMs}, box_of(1'000'000));
  EXPECT_EQ(plan.next(), Next::kRound);
}

TEST(PlanPrecopy, RoundsEndAsSoonAsTheTargetIsMet) {
  const BoxSize size = box_of(200'000'000);
  for (const double target : {300.0, 400.0, 600.0, 2000.0}) {
    Plan plan({.mode = Mode::kPrecopy, .max_downtime_ms = target}, size);
    double before = INFINITY;
    while (plan.next() == Next::kRound) {
      if (plan.rounds() > 0) {
        EXPECT_GT(plan.freeze_ms(), target);
      }
      before = plan.freeze_ms();
      const double ms = static_cast<double>(plan.dirty()) / kLink * 1e3;
      plan.sent({plan.dirty(), plan.dirty(), ms}, static_cast<uint64_t>(0.6 * kLink * ms / 1e3));
    }
    EXPECT_EQ(plan.next(), Next::kFreeze);
    EXPECT_LE(plan.freeze_ms(), target);
    EXPECT_GT(before, plan.freeze_ms());
  }
}

TEST(PlanPrecopy, ASmallerTargetTakesMoreRounds) {
  const Writes writes = steady(0.6 * kLink, 1e9);
  const Move tight({.max_downtime_ms = 300}, box_of(200'000'000), writes);
  const Move loose({.max_downtime_ms = 600}, box_of(200'000'000), writes);
  EXPECT_EQ(tight.end, Next::kFreeze);
  EXPECT_EQ(loose.end, Next::kFreeze);
  EXPECT_GT(tight.plan.rounds(), loose.plan.rounds());
}

TEST(PlanPrecopy, NoNumberOfRoundsIsTooMany) {
  // 0.88 is left each time: slowly, but it gets there.
  const Move move({.max_downtime_ms = 200}, box_of(1'000'000'000), steady(0.88 * kLink, 1e9));
  EXPECT_EQ(move.end, Next::kFreeze);
  EXPECT_GT(move.plan.rounds(), 20);
}

TEST(PlanPrecopy, AWorkingSetThatFitsIntoTheFreezeIsNoObstacle) {
  // Written to at twice the wire's speed, but these are the same 10 MB again and again.
  const Move move({}, box_of(200'000'000), working_set(10e6, 2 * kLink));
  EXPECT_EQ(move.end, Next::kFreeze);
  EXPECT_EQ(move.plan.rounds(), 1);
}

TEST(PlanPrecopy, AWorkingSetTooLargeForTheFreezeIsRefusedInTime) {
  const Move move({}, box_of(1'000'000'000), working_set(300e6, 2 * kLink));
  EXPECT_EQ(move.end, Next::kCannot);
  EXPECT_LT(move.ms, 2500 + 6000);
}

TEST(PlanPrecopy, WhoWritesAsFastAsTheWireIsRefused) {
  for (const double factor : {1.0, 1.1, 5.0}) {
    const Move move({}, box_of(1'000'000'000), steady(factor * kLink, 1e9));
    EXPECT_EQ(move.end, Next::kCannot) << factor;
    EXPECT_FALSE(move.plan.meets_target());
  }
}

TEST(PlanPrecopy, ABurstIsWaitedFor) {
  Plan plan({.mode = Mode::kPrecopy}, box_of(200'000'000));
  plan.sent({200'000'000, 200'000'000, 500}, 90'000'000);
  for (int i = 0; i < 30; ++i) {  // short rounds for 1.5 s, as when redis forks for its snapshot
    ASSERT_EQ(plan.next(), Next::kRound) << i;
    plan.sent({20'000'000, 20'000'000, 50}, 90'000'000);
  }
  Plan goes_on = plan;
  plan.sent({90'000'000, 90'000'000, 225}, 100'000);
  EXPECT_EQ(plan.next(), Next::kFreeze);
  goes_on.sent({90'000'000, 90'000'000, 600}, 90'000'000);
  EXPECT_EQ(goes_on.next(), Next::kCannot) << "but not for ever";
}

TEST(PlanPrecopy, OneLongRoundIsNoStandstill) {
  Plan plan({.mode = Mode::kPrecopy}, box_of(200'000'000));
  plan.sent({200'000'000, 200'000'000, 500}, 90'000'000);
  plan.sent({90'000'000, 90'000'000, 5000}, 90'000'000);
  EXPECT_EQ(plan.next(), Next::kRound);
}

TEST(PlanPrecopy, WhatADumpAloneTakesIsRefusedBeforeAnyRound) {
  const Plan plan({.mode = Mode::kPrecopy, .max_downtime_ms = 50}, box_of(100'000'000));
  EXPECT_EQ(plan.next(), Next::kCannot);
  EXPECT_EQ(plan.rounds(), 0);
}

TEST(PlanForce, GoesOnWhileRoundsShrinkAndFreezesThen) {
  const Move cannot({.max_downtime_ms = 250}, box_of(200'000'000), working_set(100e6, 2 * kLink));
  const Move forced({.max_downtime_ms = 250, .force = true}, box_of(200'000'000),
                    working_set(100e6, 2 * kLink));
  EXPECT_EQ(cannot.end, Next::kCannot);
  EXPECT_EQ(forced.end, Next::kFreeze);
  EXPECT_EQ(cannot.plan.rounds(), forced.plan.rounds());
  EXPECT_FALSE(forced.plan.meets_target());
}

TEST(PlanForce, MeetsATargetThatCanBeMet) {
  const Writes writes = steady(0.6 * kLink, 1e9);
  const Move plain({}, box_of(200'000'000), writes);
  const Move forced({.force = true}, box_of(200'000'000), writes);
  EXPECT_EQ(plain.plan.rounds(), forced.plan.rounds());
  EXPECT_TRUE(forced.plan.meets_target());
}

TEST(PlanForce, WithATargetBelowTheFixedPartSendsUntilATrifleIsLeft) {
  const Goal goal = {.max_downtime_ms = 1, .force = true};
  const Move move(goal, box_of(1'000'000'000), steady(0.5 * kLink, 1e9));
  EXPECT_EQ(move.end, Next::kFreeze);
  EXPECT_GT(move.plan.rounds(), 3);
  EXPECT_LT(move.plan.rounds(), 10) << "not until nothing is left";
  EXPECT_LT(static_cast<double>(move.plan.dirty()) / kLink * 1e3, 11);
  const Move idle(goal, box_of(1'000'000'000), steady(0, 0));
  EXPECT_EQ(idle.plan.rounds(), 1);
}

TEST(PlanHybrid, FreezesWhenAnotherRoundWouldNotPay) {
  const Goal goal = {.mode = Mode::kHybrid};
  const Move idle(goal, box_of(200'000'000), steady(0, 0));
  EXPECT_EQ(idle.plan.rounds(), 1);
  const Move writer(goal, box_of(200'000'000), steady(kLink, 1e9));
  EXPECT_EQ(writer.end, Next::kFreeze);
  EXPECT_EQ(writer.plan.rounds(), 1) << "as much would be left after the second";
  const Move set(goal, box_of(200'000'000), working_set(40e6, 2 * kLink));
  EXPECT_EQ(set.end, Next::kFreeze);
  EXPECT_EQ(set.plan.rounds(), 2) << "the second shows that it is a working set";
}

TEST(PlanHybrid, AGoodRoundIsWorthIt) {
  const Move move({.mode = Mode::kHybrid}, box_of(200'000'000), steady(0.2 * kLink, 1e9));
  EXPECT_EQ(move.end, Next::kFreeze);
  EXPECT_GE(move.plan.rounds(), 2);
  EXPECT_LT(static_cast<double>(move.plan.dirty()), 4e6);
}

TEST(PlanPostcopy, SendsNothingBefore) {
  const Plan plan({.mode = Mode::kPostcopy}, box_of(200'000'000));
  EXPECT_EQ(plan.next(), Next::kFreeze);
}

TEST(PlanPostcopy, AndHybridAreRefusedWhereDumpAndRestoreTakeTooLong) {
  for (const Mode mode : {Mode::kPostcopy, Mode::kHybrid}) {
    EXPECT_EQ(Plan({.mode = mode, .max_downtime_ms = 50}, box_of(1'000'000)).next(), Next::kCannot);
    const Plan forced({.mode = mode, .max_downtime_ms = 50, .force = true}, box_of(1'000'000));
    EXPECT_NE(forced.next(), Next::kCannot);
  }
}

TEST(PlanStop, IsDoneWhereItWasNamed) {
  EXPECT_EQ(Plan({.mode = Mode::kStop}, box_of(8'000'000'000)).next(), Next::kFreeze);
}

TEST(PlanStop, ThatNobodyNamedHasATarget) {
  EXPECT_EQ(Plan(Goal{}.resolved(false), box_of(8'000'000'000)).next(), Next::kCannot);
  EXPECT_EQ(Plan(Goal{}.resolved(false), box_of(1'000'000)).next(), Next::kFreeze);
  EXPECT_EQ(Plan(Goal{.force = true}.resolved(false), box_of(8'000'000'000)).next(), Next::kFreeze);
}

/// The figure behind --max-downtime in a hint; 0: there is none.
double offered(const std::string& hint) {
  const auto at = hint.find("--max-downtime ");
  return at == std::string::npos ? 0 : std::stod(hint.substr(at + 15));
}

TEST(PlanRefusal, HasTheFiguresAndWhatWouldHelp) {
  const BoxSize size = box_of(200'000'000);
  const Move move({.max_downtime_ms = 250}, size, working_set(150e6, 2 * kLink));
  ASSERT_EQ(move.end, Next::kCannot);
  const base::Error e = move.plan.refusal("web1", "node2");
  EXPECT_TRUE(e.message().starts_with("box web1 would be frozen for ")) << e.message();
  EXPECT_NE(e.message().find("and 250 are allowed"), std::string::npos) << e.message();
  EXPECT_NE(e.message().find("MB/s reach node2"), std::string::npos) << e.message();
  EXPECT_EQ(e.message().back() == '.', false);
  EXPECT_NE(e.hint().find("--force"), std::string::npos);
  EXPECT_NE(e.hint().find("--mode hybrid"), std::string::npos);
  EXPECT_EQ(e.exit(), base::Exit::kFailed);
}

TEST(PlanRefusal, OffersATargetThatWouldBeMet) {
  const BoxSize size = box_of(200'000'000);
  for (const Writes& writes : {working_set(150e6, 2 * kLink), steady(3 * kLink, 200e6)}) {
    const Move move({.max_downtime_ms = 250}, size, writes);
    ASSERT_EQ(move.end, Next::kCannot);
    const double target = offered(move.plan.refusal("web1", "node2").hint());
    ASSERT_GT(target, 250);
    EXPECT_EQ(std::fmod(target, 10), 0);
    EXPECT_EQ(Move({.max_downtime_ms = target}, size, writes).end, Next::kFreeze);
  }
  for (const Mode mode : {Mode::kPrecopy, Mode::kPostcopy, Mode::kHybrid}) {
    const Plan plan({.mode = mode, .max_downtime_ms = 20}, box_of(1'000'000, 22));
    // Nothing was sent: the offer holds all of the memory, of which a round takes most.
    const double target = offered(plan.refusal("web1", "node2").hint());
    EXPECT_EQ(Move({.mode = mode, .max_downtime_ms = target}, box_of(1'000'000, 22), steady(1e6, 1e6)).end,
              Next::kFreeze);
  }
}

TEST(PlanRefusal, NamesNoModeThatWouldNotHelp) {
  for (const Mode mode : {Mode::kPrecopy, Mode::kPostcopy, Mode::kHybrid}) {
    const Plan plan({.mode = mode, .max_downtime_ms = 20}, box_of(1'000'000, 22));
    const base::Error e = plan.refusal("web1", "node2");
    EXPECT_EQ(e.hint().find("--mode"), std::string::npos) << e.hint();
    EXPECT_NE(e.message().find("22 processes"), std::string::npos) << e.message();
  }
  const Plan stop(Goal{}.resolved(false), box_of(400'000'000));
  EXPECT_EQ(stop.refusal("web1", "node2").hint().find("hybrid"), std::string::npos)
      << "writes cannot be tracked";
  EXPECT_NE(stop.refusal("web1", "node2").hint().find("--mode postcopy"), std::string::npos);
}

TEST(PlanRefusal, OffersNoTargetThatTheCommandLineDoesNotTake) {
  Plan plan({.mode = Mode::kPrecopy}, box_of(400'000'000'000));
  plan.sent({1'000'000, 1'000'000, 1000}, 4'000'000'000);  // 1 MB/s
  EXPECT_EQ(offered(plan.refusal("web1", "node2").hint()), 0);
}

TEST(PlanForecast, OfPrecopyIsWhatTheSameMoveDoes) {
  const BoxSize size = box_of(200'000'000);
  const Forecast f = Plan::forecast({}, size, {kLink, 0, 0.5 * kLink}, 40'000'000);
  const Move move({}, size, steady(0.5 * kLink, 200e6));
  EXPECT_TRUE(f.reachable);
  EXPECT_EQ(f.rounds, move.plan.rounds());
  EXPECT_NEAR(f.freeze_ms, move.plan.freeze_ms(), 10);
  EXPECT_NEAR(static_cast<double>(f.bytes), 40e6 + move.sent + static_cast<double>(move.plan.dirty()), 2e6);
  EXPECT_GT(f.total_ms, move.ms + f.freeze_ms);
  EXPECT_EQ(f.bandwidth, kLink);
  EXPECT_EQ(f.dirty_rate, 0.5 * kLink);
}

TEST(PlanForecast, SaysWhereTheTargetIsOutOfReach) {
  EXPECT_FALSE(Plan::forecast({}, box_of(1'000'000'000), {kLink, 0, 2 * kLink}, 0).reachable);
  EXPECT_FALSE(Plan::forecast({.force = true}, box_of(1'000'000'000), {kLink, 0, 2 * kLink}, 0).reachable);
  EXPECT_FALSE(Plan::forecast({.max_downtime_ms = 10}, box_of(1'000'000), {kLink, 0, 0}, 0).reachable);
  EXPECT_TRUE(Plan::forecast({.mode = Mode::kStop}, box_of(8'000'000'000), {kLink, 0, 0}, 0).reachable);
  EXPECT_FALSE(Plan::forecast(Goal{}.resolved(false), box_of(8'000'000'000), {kLink, 0, 0}, 0).reachable);
  EXPECT_TRUE(
      Plan::forecast({.mode = Mode::kHybrid}, box_of(100'000'000), {kLink, 0, 2 * kLink}, 0).reachable);
}

TEST(PlanForecast, SaysThatFilesAreWrittenFasterThanTheyAreSent) {
  for (const Mode mode : {Mode::kPrecopy, Mode::kPostcopy, Mode::kHybrid}) {
    const auto of = [&](double file_rate) {
      return Plan::forecast({.mode = mode}, box_of(100'000'000), {kLink, 0, 1e6, file_rate}, 200'000'000);
    };
    EXPECT_TRUE(of(0.1 * kLink).reachable) << to_string(mode);
    EXPECT_FALSE(of(2 * kLink).reachable) << to_string(mode);
  }
}

TEST(PlanForecast, InTheMiddleCountsTheRoundsThatAreToCome) {
  Plan plan({.mode = Mode::kPrecopy}, box_of(1'000'000'000));
  plan.sent({1'000'000'000, 1'000'000'000, 2500}, 500'000'000);
  const Forecast f = plan.forecast(3000, plan.dirty_rate());
  EXPECT_EQ(plan.rounds(), 1);
  EXPECT_GT(f.rounds, 3);
  EXPECT_GT(f.bytes, 1'900'000'000) << "each round half of the one before";
  EXPECT_GT(f.total_ms, 3000 + 2400);
  EXPECT_LT(f.freeze_ms, plan.freeze_ms());
  EXPECT_LE(f.freeze_ms, 300);
}

TEST(PlanForecast, OfEachModeComparesAsTheyDo) {
  const auto of = [](Mode mode) {
    return Plan::forecast({.mode = mode, .max_downtime_ms = 2000}, box_of(1'000'000'000), {kLink, 0, 20e6},
                          10'000'000);
  };
  const Forecast stop = of(Mode::kStop), precopy = of(Mode::kPrecopy), postcopy = of(Mode::kPostcopy),
                 hybrid = of(Mode::kHybrid);
  EXPECT_GT(stop.freeze_ms, precopy.freeze_ms);
  EXPECT_GT(precopy.freeze_ms, postcopy.freeze_ms);
  EXPECT_EQ(postcopy.freeze_ms, hybrid.freeze_ms);
  EXPECT_EQ(stop.rounds, 0);
  EXPECT_EQ(postcopy.rounds, 0);
  EXPECT_EQ(stop.bytes, 1'010'000'000);
  EXPECT_EQ(postcopy.bytes, 1'010'000'000);
  EXPECT_GT(precopy.bytes, 1'010'000'000);
  EXPECT_GT(postcopy.total_ms, 2500) << "until the memory is there";
}

TEST(PlanForecast, WithoutABandwidthTakesASlowOne) {
  const Forecast f = Plan::forecast({}, box_of(100'000'000), {0, 0, 0}, 0);
  EXPECT_GT(f.bandwidth, 50e6);
  EXPECT_TRUE(std::isfinite(f.total_ms));
}

TEST(PlanForecast, AndEveryMoveComeToAnEnd) {
  std::mt19937_64 random(1);
  const auto any = [&](double low, double high) {  // as many of each size
    return std::exp(std::uniform_real_distribution(std::log(low), std::log(high))(random));
  };
  for (int i = 0; i < 3000; ++i) {
    const Goal goal = {.mode = static_cast<Mode>(random() % 5),
                       .max_downtime_ms = any(1, 600'000),
                       .force = random() % 2 == 0};
    const BoxSize size = box_of(static_cast<uint64_t>(any(1, 64e9)), static_cast<unsigned>(any(1, 1000)));
    const double link = any(1e5, 1e10), writes = any(1, 1e11), set = any(1, 64e9);
    const Forecast f = Plan::forecast(goal, size, {link, 0, writes, any(1, 1e10)}, random() % 1'000'000'000);
    EXPECT_TRUE(std::isfinite(f.total_ms) && f.total_ms >= f.freeze_ms);
    const Move move(goal, size, working_set(std::min(set, static_cast<double>(size.memory_bytes)), writes),
                    link);
    if (goal.force || goal.mode == Mode::kStop) {
      EXPECT_EQ(move.end, Next::kFreeze);
    } else if (move.end == Next::kFreeze) {
      EXPECT_LE(move.plan.freeze_ms(), goal.max_downtime_ms);
    }
    if (move.end == Next::kCannot) {
      EXPECT_GT(move.plan.freeze_ms(), goal.max_downtime_ms);
      EXPECT_FALSE(move.plan.refusal("b", "n").hint().empty());
    }
  }
}

}  // namespace
}  // namespace migrate
