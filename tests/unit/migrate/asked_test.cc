#include "migrate/asked.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace migrate {
namespace {

constexpr uint64_t page(uint64_t number) { return number * kPageSize; }

struct Piece {
  uint32_t pid;
  uint64_t first;
  uint32_t pages;
  bool operator==(const Piece&) const = default;
};
std::vector<Piece> taken(Asked& asked) {
  std::vector<Piece> runs;
  for (const PageRun& run : asked.take()) runs.push_back({run.pid, run.address / kPageSize, run.pages});
  return runs;
}

TEST(Asked, NothingTwice) {
  Asked asked;
  asked.want(1, page(10), page(20), false);
  asked.want(1, page(5), page(25), false);
  EXPECT_EQ(taken(asked), (std::vector<Piece>{{1, 10, 10}, {1, 5, 5}, {1, 20, 5}}));
  EXPECT_EQ(asked.bytes(), page(20));
  asked.want(1, page(12), page(13), true);
  EXPECT_TRUE(taken(asked).empty());
  asked.want(2, page(12), page(13), false);  // another process
  EXPECT_EQ(taken(asked), (std::vector<Piece>{{2, 12, 1}}));
}

TEST(Asked, UrgentFirst) {
  Asked asked;
  asked.want(1, page(0), page(2), false);
  asked.want(1, page(40), page(41), true);
  EXPECT_EQ(taken(asked), (std::vector<Piece>{{1, 40, 1}, {1, 0, 2}}));
}

TEST(Asked, LongOnesInRuns) {
  Asked asked;
  asked.want(1, 0, page(2 * kMostPages + 1), false);
  EXPECT_EQ(taken(asked),
            (std::vector<Piece>{{1, 0, kMostPages}, {1, kMostPages, kMostPages}, {1, 2 * kMostPages, 1}}));
}

TEST(Asked, WhatCameCanBeAskedForAgain) {
  Asked asked;
  asked.want(1, page(3), page(5), false);
  const auto runs = asked.take();
  ASSERT_EQ(runs.size(), 1U);
  asked.require(runs[0]);
  asked.done(runs[0]);
  EXPECT_EQ(asked.bytes(), 0U);
  EXPECT_THROW(asked.require(runs[0]), base::Error);
  asked.want(1, page(3), page(5), false);
  EXPECT_EQ(taken(asked), (std::vector<Piece>{{1, 3, 2}}));
}

TEST(Asked, OnlyWhatWasAskedForMayCome) {
  Asked asked;
  asked.want(1, page(3), page(5), false);
  for (const PageRun& other : {PageRun{2, page(3), 2}, PageRun{1, page(3), 1}, PageRun{1, page(3), 3},
                               PageRun{1, page(4), 1}, PageRun{1, page(2), 2}})
    EXPECT_THROW(asked.require(other), base::Error) << other.pid << " " << other.address;
  EXPECT_EQ(asked.bytes(), page(2));
}

TEST(Asked, ForgetsAll) {
  Asked asked;
  asked.want(1, page(3), page(5), false);
  asked.forget();
  EXPECT_EQ(asked.bytes(), 0U);
  EXPECT_TRUE(taken(asked).empty());
  asked.want(1, page(3), page(5), false);
  EXPECT_EQ(taken(asked), (std::vector<Piece>{{1, 3, 2}}));
}

}  // namespace
}  // namespace migrate
