#include "migrate/settle.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "base/child.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/mount.h"
#include "migrate/departure.h"
#include "tests/unit/migrate/tree_tools.h"

namespace migrate {
namespace {

using namespace std::chrono_literals;

const std::string kMove(32, 'a'), kOtherMove(32, 'b'), kUuid(32, '1'), kOtherUuid(32, '2');

/// A source that is asked about a move of box web1, which began when the box had epoch 5.
class SettleTest : public testing::Test {
 protected:
  static box::Config config(uint64_t epoch, const std::string& uuid = kUuid) {
    box::Config c;
    c.name = "web1";
    c.uuid = uuid;
    c.template_ref = "shell@2025010101";
    c.layers = {{"sha256:" + std::string(64, '0'), 1}};
    c.start.init = {"/sbin/init"};
    c.bridge = "br0";
    c.mac = box::Mac::parse("02:00:00:00:00:01");
    c.addresses = {box::Address::parse("192.0.2.1/24")};
    c.id_base = 65536;
    c.epoch = epoch;
    return c;
  }
  void put(const box::Config& c) {
    base::make_directories(paths_.dir, 0700);
    box::save_config(paths_, c);
  }
  nlohmann::json question() {
    return {{"protocol", 1}, {"id", kMove}, {"box", "web1"}, {"uuid", kUuid}, {"epoch", 5}};
  }
  std::string verdict(void (*answer)(const base::Context&, Wire&, const nlohmann::json&),
                      const nlohmann::json& asked) {
    base::Pipe to = base::make_pipe(), from = base::make_pipe();
    Wire here(to.read.get(), from.write.get()), there(from.read.get(), to.write.get());
    answer(context_, here, asked);
    return there.expect_json(Frame::kAnswer, 1s).at("verdict");
  }
  std::string asked() { return verdict(answer_question, question()); }
  std::string told(const nlohmann::json& word = "given") {
    auto decision = question();
    decision["verdict"] = word;
    return verdict(answer_decision, decision);
  }

  base::TempDir directory_ = base::TempDir::make("/tmp", "drover-unit-");
  base::ProcessRunner runner_{false};
  std::unique_ptr<base::Progress> progress_ = base::make_progress(base::Talk::kSilent);
  base::Clock clock_;
  base::Context context_{.runner = runner_,
                         .progress = *progress_,
                         .clock = clock_,
                         .state_dir = directory_.path() + "/state",
                         .run_dir = directory_.path() + "/run"};
  box::Paths paths_ = box::paths_of(context_, "web1");
};

TEST_F(SettleTest, ABoxThatIsHereWasKept) {
  put(config(5));
  EXPECT_EQ(asked(), "kept");
  put(config(7));  // it has been away and came back
  EXPECT_EQ(asked(), "kept");
}

TEST_F(SettleTest, AnOldCopyKnowsNothing) {
  put(config(4));
  EXPECT_EQ(asked(), "unknown");
}

TEST_F(SettleTest, AGivenBoxIsGiven) {
  put(config(5));
  auto move = box::begin_move(paths_, box::MoveStep::kLeaving, kMove, "node2", {"false"}, 5);
  move.advance(paths_, box::MoveStep::kGiven);
  EXPECT_EQ(asked(), "given");
}

/// The journal's writer stands between its write and the end of its fsync.
TEST_F(SettleTest, WhatMayNotBeOnDiskIsNotSaid) {
  put(config(5));
  auto move = box::begin_move(paths_, box::MoveStep::kLeaving, kMove, "node2", {"false"}, 5);
  base::Journal journal = base::Journal::open(paths_.journal);
  journal.append({{"step", "given"}, {"time", 1}});
  EXPECT_EQ(box::find_move(paths_)->step, box::MoveStep::kGiven);
  EXPECT_TRUE(error_of([&] { asked(); }).contains("in use by another process"));
}

TEST_F(SettleTest, GivenInAnotherMove) {
  put(config(5));
  auto move = box::begin_move(paths_, box::MoveStep::kLeaving, kOtherMove, "node3", {"false"}, 5);
  move.advance(paths_, box::MoveStep::kGiven);
  EXPECT_EQ(asked(), "kept");
  forget_box(context_, config(5), 6);
  EXPECT_FALSE(box::find_config(context_, "web1"));
  EXPECT_EQ(asked(), "kept");
}

TEST_F(SettleTest, GivenLaterOrBefore) {
  for (const auto& [epoch, word] : {std::pair(4, "unknown"), {5, "unknown"}, {6, "kept"}, {7, "kept"}}) {
    box::remember_given(context_, config(1), static_cast<uint64_t>(epoch), kOtherMove);
    EXPECT_EQ(asked(), word) << epoch;
  }
}

/// The other node had confirmed that it runs: that it asks again means that its disk is an old copy.
TEST_F(SettleTest, GivenInThisMoveAndConfirmed) {
  box::remember_given(context_, config(1), 6, kMove);
  EXPECT_EQ(asked(), "unknown");
}

TEST_F(SettleTest, KeptAndThenDestroyed) {
  put(config(5));
  box::begin_move(paths_, box::MoveStep::kLeaving, kMove, "node2", {"false"}, 5);
  box::end_kept_move(paths_);
  EXPECT_EQ(asked(), "kept");
  box::remember_destroyed(context_, paths_, config(5));
  box::remove_box_dir(context_, paths_.dir);
  EXPECT_EQ(asked(), "kept");
  put(config(1, kOtherUuid));  // another box of that name says nothing
  EXPECT_EQ(asked(), "kept");
}

TEST_F(SettleTest, NothingIsKnown) {
  EXPECT_EQ(asked(), "unknown");
  put(config(5, kOtherUuid));
  EXPECT_EQ(asked(), "unknown");
}

TEST_F(SettleTest, ABoxThatNeverMovedLeavesNoRecord) {
  put(config(5));
  box::remember_destroyed(context_, paths_, config(5));
  EXPECT_FALSE(base::exists(context_.state_dir + "/destroyed"));
}

TEST_F(SettleTest, TheDestinationRemembersThatItHadTheBox) {
  EXPECT_EQ(told(), "unknown");
  box::remember_given(context_, config(1), 6, kOtherMove);
  EXPECT_EQ(told(), "unknown");  // with epoch 5, so before
  box::remember_given(context_, config(1), 7, kOtherMove);
  EXPECT_EQ(told(), "running");
}

TEST_F(SettleTest, WhatIsLeavingIsUndecidedWhileItsCommandLives) {
  put(config(5));
  box::begin_move(paths_, box::MoveStep::kLeaving, kMove, "node2", {"false"}, 5);
  {
    const box::Lock command = box::lock_box(context_, "web1");
    EXPECT_EQ(asked(), "undecided");
    EXPECT_EQ(told(), "undecided");
    EXPECT_TRUE(box::find_move(paths_));
  }
  EXPECT_EQ(asked(), "kept");
  EXPECT_FALSE(box::find_move(paths_));
}

TEST_F(SettleTest, WhatCameByThisMoveRuns) {
  auto here = config(6);
  here.last_move = kMove;
  put(here);
  EXPECT_EQ(told(), "running");
  EXPECT_EQ(told("kept"), "running");  // taken by a person, so that the source can say so
}

TEST_F(SettleTest, ADecisionAboutNothingIsUnknown) {
  for (const nlohmann::json& word :
       std::vector<nlohmann::json>{"given", "kept", "running", "nonsense", 7, {}})
    EXPECT_EQ(told(word), "unknown") << word;
}

TEST_F(SettleTest, QuestionsAreLookedAt) {
  for (const char* key : {"id", "box", "uuid", "epoch"}) {
    auto without = question();
    without.erase(key);
    EXPECT_FALSE(error_of([&] { verdict(answer_question, without); }).empty()) << key;
  }
  const std::vector<std::pair<const char*, nlohmann::json>> wrong = {
      {"id", "../../etc"}, {"id", 7},     {"id", std::string(33, 'a')}, {"uuid", nullptr}, {"box", "../web1"},
      {"box", ""},         {"epoch", "5"}};
  for (const auto& [key, value] : wrong) {
    auto with = question();
    with[key] = value;
    for (auto* answer : {answer_question, answer_decision})
      EXPECT_FALSE(error_of([&] { verdict(answer, with); }).empty()) << with;
  }
  auto hostile = question();
  hostile["uuid"] = "../../boxes/web1/box.json";
  EXPECT_EQ(error_of([&] { verdict(answer_question, hostile); }), "the other node's question names no box");
}

}  // namespace
}  // namespace migrate
