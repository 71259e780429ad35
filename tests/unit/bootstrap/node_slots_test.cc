#include "bootstrap/node_slots.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/mount.h"
#include "image/slot_file.h"
#include "tests/unit/base/samples.h"

namespace bootstrap {
namespace {

using image::Slot;
using image::SlotState;

class NodeSlots : public testing::Test {
 protected:
  NodeSlots() { test_.context.run_dir = dir_.path(); }
  void write(const SlotState& state) { base::write_file(file_, image::render(state)); }
  [[nodiscard]] SlotState read() const { return image::read_slot_state(file_); }
  Verdict judged(Slot slot, bool good) {
    return judge(test_.context, {.state_file = file_, .running = slot}, good);
  }

  base::TempDir dir_ = base::TempDir::make("/tmp", "drover-slots-");
  std::string file_ = dir_.path() + "/slot-state";
  base::TestContext test_;
  SlotState installed_ = SlotState{}.activate(Slot::kA, 3);
  SlotState updated_ = installed_.confirm(Slot::kA).activate(Slot::kB, 1);
};

TEST_F(NodeSlots, AHealthySlotIsConfirmed) {
  write(updated_);
  EXPECT_EQ(judged(Slot::kB, true), Verdict::kConfirmed);
  EXPECT_EQ(read(), updated_.confirm(Slot::kB));
}

TEST_F(NodeSlots, WhatIsSoAlreadyIsNotWrittenAgain) {
  write(updated_.confirm(Slot::kB));
  uint32_t before = read().sequence;
  EXPECT_EQ(judged(Slot::kB, true), Verdict::kConfirmed);
  EXPECT_EQ(read().sequence, before);
}

TEST_F(NodeSlots, AnUnhealthyTrialGoesBack) {
  write(updated_);
  EXPECT_EQ(judged(Slot::kB, false), Verdict::kMarkedBad);
  EXPECT_EQ(read(), updated_.mark_bad(Slot::kB));
  EXPECT_EQ(image::boot(read()).slot, Slot::kA);
}

TEST_F(NodeSlots, AnUnhealthySlotThatWasHealthyOnceStays) {
  SlotState both = updated_.confirm(Slot::kB);
  write(both);
  EXPECT_EQ(judged(Slot::kB, false), Verdict::kProven);
  EXPECT_EQ(read(), both);
}

TEST_F(NodeSlots, WithoutAWayBackItStays) {
  write(installed_);
  EXPECT_EQ(judged(Slot::kA, false), Verdict::kKept);
  EXPECT_EQ(read(), installed_);
  SlotState used_up = updated_;
  used_up.slots[0].tries = 0;
  write(used_up);
  EXPECT_EQ(judged(Slot::kB, false), Verdict::kKept);
  EXPECT_EQ(read(), used_up);
}

TEST_F(NodeSlots, ASlotThatIsMarkedBadIsNotConfirmed) {
  write(updated_.mark_bad(Slot::kB));
  EXPECT_THROW(judged(Slot::kB, true), base::Error);
}

TEST_F(NodeSlots, OnlyASlotIsJudged) {
  write(installed_);
  EXPECT_THROW(judge(test_.context, {.state_file = file_, .running = {}}, true), base::Error);
  EXPECT_FALSE(running_slot("root=/dev/vda quiet"));
  EXPECT_EQ(running_slot("drover.slot=b drover.root=" + std::string(64, '0') + " drover.hash-offset=4096"),
            Slot::kB);
  EXPECT_THROW(parse_slot("c"), base::Error);
}

TEST_F(NodeSlots, AMachineThatIsNoNodeIsNotHealthy) {
  test_.context.state_dir = dir_.path();
  Health health = look_at_health(test_.context, dir_.path() + "/none");
  EXPECT_FALSE(health.good());
  ASSERT_EQ(health.results.size(), 2u);
  EXPECT_EQ(health.results[0].name, "root");
  EXPECT_EQ(health.results[1].said, "nothing is mounted at " + dir_.path());
}

}  // namespace
}  // namespace bootstrap
