#include "migrate/lanes.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <random>
#include <set>
#include <thread>

namespace migrate {
namespace {

TEST(Lanes, EachRunIsTakenOnce) {
  std::vector<PageRun> runs;
  append_runs(runs, 7, 0, 10'000 * kPageSize);
  Share share(runs);
  std::vector<std::vector<const PageRun*>> taken(4);
  {
    std::vector<std::jthread> threads;
    for (auto& mine : taken)
      threads.emplace_back([&] {
        while (const PageRun* run = share.next()) mine.push_back(run);
      });
  }
  std::set<const PageRun*> all;
  size_t count = 0;
  for (auto& mine : taken) {
    all.insert(mine.begin(), mine.end());
    count += mine.size();
  }
  EXPECT_EQ(runs.size(), all.size());
  EXPECT_EQ(runs.size(), count);
}

/// Memory of this process, and lanes to a shell that plays the other node.
class LanesTest : public testing::Test {
 protected:
  LanesTest() {
    std::mt19937 random(1);  // so that it does not shrink
    for (size_t at = 0; at < kSize; at += 4) {
      const auto word = static_cast<uint32_t>(random());
      std::memcpy(memory_ + at, &word, 4);
    }
  }
  ~LanesTest() override { ::munmap(memory_, kSize); }
  std::shared_ptr<Share> share() {
    std::vector<PageRun> runs;
    append_runs(runs, 7, reinterpret_cast<uint64_t>(memory_), reinterpret_cast<uint64_t>(memory_) + kSize);
    return std::make_shared<Share>(runs);
  }
  static Lanes lanes_to(const std::string& script, unsigned streams) {
    return {{"sh", "-c", script}, "node", {{"protocol", 0}}, streams};
  }
  static std::vector<PageRun> end(Lanes& lanes,
                                  std::chrono::milliseconds patience = std::chrono::minutes(1)) {
    return lanes.end_round([] {}, patience);
  }
  static constexpr size_t kSize = 256 * kPageSize;
  static constexpr const char* kReady = "printf '\\035\\002\\000\\000\\000{}'; ";
  static constexpr const char* kRoundDone = "printf '\\025\\002\\000\\000\\000{}'; ";
  char* memory_ =
      static_cast<char*>(::mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
};

TEST_F(LanesTest, SendWhatTheyTake) {
  Lanes lanes = lanes_to(kReady + std::string(kRoundDone) + "cat >/dev/null", 3);
  lanes.open();
  const auto all = share();
  lanes.push(1, {{7, ::getpid()}}, all);
  EXPECT_TRUE(end(lanes).empty());
  EXPECT_EQ(kSize, all->sent);
  EXPECT_EQ(2U, lanes.size());
  EXPECT_GT(lanes.wire_bytes(), kSize);
}

TEST_F(LanesTest, OneThatCannotBeMadeIsDoneWithout) {
  Lanes lanes = lanes_to("exit 1", 2);
  lanes.open();
  const auto all = share();
  lanes.push(1, {{7, ::getpid()}}, all);
  EXPECT_TRUE(end(lanes).empty());
  EXPECT_EQ(0U, all->sent);
  EXPECT_EQ(0U, lanes.size());
}

TEST_F(LanesTest, WhatOneHadTakenIsNotKnownToHaveArrived) {
  // It takes the greeting, the round and some of the pages.
  Lanes lanes = lanes_to(kReady + std::string("head -c 300 >/dev/null"), 2);
  lanes.open();
  const auto all = share();
  lanes.push(1, {{7, ::getpid()}}, all);
  const auto lost = end(lanes);
  EXPECT_EQ(0U, lanes.size());
  ASSERT_FALSE(lost.empty());
  size_t left = 0;
  while (all->next()) ++left;
  EXPECT_EQ(all->runs.size(), lost.size() + left);
}

TEST_F(LanesTest, WhatIsTooSlowIsLost) {
  Lanes lanes = lanes_to(kReady + std::string("exec sleep 1000"), 2);
  lanes.open();
  const auto all = share();
  lanes.push(1, {{7, ::getpid()}}, all);
  EXPECT_FALSE(end(lanes, std::chrono::milliseconds(200)).empty());
  EXPECT_EQ(0U, lanes.size());
}

TEST_F(LanesTest, ClosedWhileTheyWait) {
  Lanes lanes = lanes_to(kReady + std::string("exec sleep 1000"), 2);
  lanes.open();
  lanes.push(1, {{7, ::getpid()}}, share());
  const auto start = std::chrono::steady_clock::now();
  lanes.close();
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(10));
  EXPECT_EQ(0U, lanes.size());
}

/// One after the other, in the midst of a round, as many as it may be.
TEST_F(LanesTest, OneMoreWhereItPays) {
  constexpr unsigned kMost = kMostAutoStreams - 1;
  Lanes lanes = lanes_to(kReady + std::string(kRoundDone) + "cat >/dev/null", 0);
  lanes.open();
  const auto all = share();
  lanes.push(1, {{7, ::getpid()}}, all);
  EXPECT_EQ(0U, lanes.size());
  lanes.grow(Load{.packing = 0.5, .cipher = 0.5, .idle = 3});
  EXPECT_EQ(0U, lanes.size());
  for (int i = 0; i < 400 && all->sent < kSize; ++i) {
    lanes.grow(Load{.packing = 1, .cipher = 0.5, .idle = 3});
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  EXPECT_TRUE(end(lanes).empty());
  EXPECT_EQ(kSize, all->sent);
  for (int i = 0; i < 400 && lanes.size() < kMost; ++i) {
    lanes.grow(Load{.packing = 1, .cipher = 0.5, .idle = 3});
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  lanes.grow(Load{.packing = 1, .cipher = 0.5, .idle = 3});
  EXPECT_EQ(kMost, lanes.size());
}

/// Whatever was the matter with it.
TEST_F(LanesTest, NoneAfterOneWasLost) {
  Lanes lanes = lanes_to("exit 1", 0);
  lanes.open();
  for (int i = 0; i < 50; ++i) {
    lanes.grow(Load{.packing = 1, .cipher = 0.5, .idle = 3});
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  lanes.grow(std::nullopt);
  EXPECT_EQ(0U, lanes.size());
}

/// As many as there are connections, and by itself only where it pays.
TEST_F(LanesTest, NoneWithoutNeed) {
  Lanes one = lanes_to("exit 1", 1), any = lanes_to("exit 1", 0);
  one.open();
  any.open();
  EXPECT_EQ(0U, one.size());
  EXPECT_EQ(0U, any.size());
}

}  // namespace
}  // namespace migrate
