#include "migrate/report.h"

#include <gtest/gtest.h>

namespace migrate {
namespace {

Report moved() {
  Report r;
  r.box = "web1";
  r.from = "node1";
  r.to = "node2";
  r.mode = "precopy";
  r.outcome = Outcome::kMoved;
  r.epoch = 2;
  r.freeze_ms = 214.04;
  r.total_ms = 3100.5;
  r.wire_bytes = 900;
  r.phases = {{"round 0", 2500, 1'000'000'000}, {"memory 1", 60, 20'000'000}};
  return r;
}

Forecast forecast() {
  return {.rounds = 2,
          .bytes = 1'030'000'000,
          .total_ms = 2999.96,
          .freeze_ms = 240,
          .bandwidth = 400e6,
          .dirty_rate = 7.6e6};
}

TEST(Report, WithoutAPredictionHasNone) {
  const auto json = moved().json();
  EXPECT_FALSE(json.contains("predicted"));
  EXPECT_FALSE(json.contains("rounds"));
  EXPECT_EQ(json.at("freeze_ms"), 214.0);
  EXPECT_EQ(moved().table().find("PREDICTED"), std::string::npos);
}

TEST(Report, HasThePredictionBesideWhatHappened) {
  Report r = moved();
  r.predicted = forecast();
  r.rounds = 3;
  r.streams = 3;
  r.bandwidth = 380e6;
  r.dirty_rate = 8e6;
  const auto json = r.json();
  EXPECT_EQ(json.at("rounds"), 3);
  EXPECT_EQ(json.at("streams"), 3);
  EXPECT_EQ(json.at("bytes"), 1'020'000'000) << "of the phases";
  EXPECT_EQ(json.at("bandwidth"), 380'000'000);
  EXPECT_EQ(json.at("dirty_rate"), 8'000'000);
  EXPECT_EQ(json.at("predicted").at("rounds"), 2);
  EXPECT_EQ(json.at("predicted").at("bytes"), 1'030'000'000);
  EXPECT_EQ(json.at("predicted").at("total_ms"), 3000.0);
  EXPECT_EQ(json.at("predicted").at("freeze_ms"), 240.0);
  EXPECT_EQ(json.at("predicted").at("bandwidth"), 400'000'000);
  EXPECT_EQ(json.at("predicted").at("dirty_rate"), 7'600'000);
  EXPECT_EQ(json.at("predicted").at("reachable"), true);
  EXPECT_EQ(r.table(), R"(PHASE                  MS        BYTES
round 0            2500.0    1000.0 MB
memory 1             60.0      20.0 MB

                  PREDICTED     HAPPENED
rounds                    2            3
files, memory     1030.0 MB    1020.0 MB
total               3000 ms      3100 ms
freeze               240 ms       214 ms
bandwidth        400.0 MB/s   380.0 MB/s
box writes      7600.0 kB/s  8000.0 kB/s

web1 moved from node1 to node2, frozen for 214 ms of 3100 ms
900 B on the wire (packed), memory over 3 connections, epoch 2
)");
}

TEST(Report, CountsWhatIsOfTheBoxAlone) {
  Report r = moved();
  r.predicted = forecast();
  r.phases.push_back({"layers", 700, 54'000'000, false});
  EXPECT_EQ(r.json().at("bytes"), 1'020'000'000);
  EXPECT_NE(r.table().find("layers "), std::string::npos);
}

TEST(Report, AStepEntersThePhasesWhenItEnds) {
  std::vector<Report::Phase> phases;
  const auto progress = base::make_progress(base::Talk::kSilent);
  {
    Step step(*progress, phases, "dump");
    step.bytes = 5;
    step.without = 1e6;
    step.of_box = false;
    EXPECT_TRUE(phases.empty());
  }
  ASSERT_EQ(phases.size(), 1U);
  EXPECT_EQ(phases[0].name, "dump");
  EXPECT_EQ(phases[0].bytes, 5U);
  EXPECT_LT(phases[0].ms, 0) << "what another phase counts is taken off";
  EXPECT_FALSE(phases[0].of_box);
}

TEST(Report, WhatWasNotMeasuredIsLeftOut) {
  Report r = moved();
  r.predicted = forecast();
  const std::string table = r.table();
  EXPECT_NE(table.find("bandwidth        400.0 MB/s\n"), std::string::npos) << table;
  EXPECT_NE(table.find("box writes      7600.0 kB/s\n"), std::string::npos) << table;
  r.rounds = 1;
  EXPECT_NE(r.table().find("box writes      7600.0 kB/s        0 B/s\n"), std::string::npos) << r.table();
}

TEST(Report, OfADryRunIsThePlan) {
  Report r = moved();
  r.outcome = Outcome::kPlanned;
  r.phases.clear();
  r.predicted = forecast();
  EXPECT_EQ(r.json().at("outcome"), "planned");
  EXPECT_EQ(r.table(), R"(                  PREDICTED
rounds                    2
files, memory     1030.0 MB
total               3000 ms
freeze               240 ms
bandwidth        400.0 MB/s
box writes      7600.0 kB/s
web1 would move from node1 to node2 in 3000 ms with mode precopy, frozen for 240 ms
)");
  r.predicted->reachable = false;
  EXPECT_TRUE(r.table().ends_with("frozen for 240 ms: longer than --max-downtime allows\n")) << r.table();
}

TEST(Report, OfARefusalHasThePredictionInJson) {
  Report r = moved();
  r.outcome = Outcome::kRolledBack;
  r.predicted = forecast();
  r.predicted->reachable = false;
  EXPECT_EQ(r.json().at("predicted").at("reachable"), false);
  EXPECT_EQ(r.table().find("HAPPENED"), std::string::npos);
}

}  // namespace
}  // namespace migrate
