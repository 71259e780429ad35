#include "base/whole.h"

#include <gtest/gtest.h>

namespace base {
namespace {

Whole build() { return {"build", {{"plan", 2}, {"install", 30}, {"unpack", 1}, {"pack", 10}, {"hash", 2}}}; }

TEST(Whole, TimeLeftIsWhatIsExpected) {
  Whole whole = build();
  EXPECT_EQ(whole.left(0, 0), 45);
  whole.begin("plan");
  EXPECT_EQ(whole.left(0.5, 0), 44.5);
  whole.end("plan", 1);
  EXPECT_EQ(whole.left(0, 0), 43);
}

TEST(Whole, APhaseThatTakesLongerHoldsItUp) {
  Whole whole = build();
  whole.begin("plan");
  EXPECT_EQ(whole.left(100, 0), 43);
}

TEST(Whole, WhatIsLeftOutCountsAsDone) {
  Whole whole = build();
  whole.begin("unpack");
  EXPECT_EQ(whole.left(0, 0), 13);
}

TEST(Whole, APhaseThatTellsItsShareIsBelieved) {
  Whole whole = build();
  whole.begin("pack");
  EXPECT_EQ(whole.left(3, 0.05), 9);  // too early for that
  EXPECT_EQ(whole.left(30, 0.5), 32);
  EXPECT_EQ(whole.left(30, 1), 2);
}

TEST(Whole, AnUnexpectedPhaseAddsNothing) {
  Whole whole = build();
  whole.begin("plan");
  whole.end("plan", 2);
  whole.begin("think");
  EXPECT_EQ(whole.left(7, 0), 43);
  whole.end("think", 7);
  EXPECT_EQ(whole.took(), (std::vector<PhaseTime>{{"plan", 2}, {"think", 7}}));
}

TEST(Whole, ThereMayBeNone) {
  Whole whole;
  whole.begin("plan");
  EXPECT_EQ(whole.left(1, 0), 0);
}

}  // namespace
}  // namespace base
