#include "box/images.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <cstring>
#include <string>

#include "base/fd.h"

namespace box {
namespace {

/// A field of Protocol Buffers with a number below 128, or with bytes.
std::string number(int field, char value) { return {static_cast<char>(field << 3), value}; }
std::string bytes(int field, const std::string& value) {
  return std::string{static_cast<char>(field << 3 | 2), static_cast<char>(value.size())} + value;
}

std::string timer(char ticks, char seconds, char nanoseconds, char interval) {
  return number(1, 9) + number(2, 0) + bytes(3, number(1, 0)) + number(4, 1) + number(5, ticks) +
         number(6, 0) + number(7, seconds) + number(8, nanoseconds) + number(9, interval) + number(10, 0);
}

std::string image(const std::string& timer) {
  std::string text = "12345678";
  const std::string entries[] = {number(1, 2) + number(2, 3) + bytes(3, "a file"),
                                 number(1, 17) + number(2, 4) + bytes(12, timer)};
  for (const std::string& entry : entries) {
    const auto size = static_cast<uint32_t>(entry.size());
    std::string head(4, '\0');
    std::memcpy(head.data(), &size, 4);
    text += head + entry;
  }
  return text;
}

class Images : public testing::Test {
 protected:
  Images() { EXPECT_NE(::mkdtemp(path_.data()), nullptr); }
  ~Images() override { base::remove_tree(path_); }

  std::string after(const std::string& content) {
    base::write_file(path_ + "/files.img", content);
    keep_timers_armed(base::open(path_, O_RDONLY | O_DIRECTORY).get());
    return base::read_file(path_ + "/files.img");
  }

  std::string path_ = testing::TempDir() + "images.XXXXXX";
};

TEST_F(Images, TimerThatTickedUnreadStaysArmed) {
  EXPECT_EQ(after(image(timer(3, 0, 0, 1))), image(timer(3, 0, 1, 1)));
}

TEST_F(Images, OthersStayAsTheyAre) {
  for (const std::string& same : {timer(3, 5, 0, 1), timer(3, 0, 7, 1), timer(0, 0, 0, 1), timer(1, 0, 0, 0)})
    EXPECT_EQ(after(image(same)), image(same));
}

TEST_F(Images, WhatMakesNoSenseStaysAsItIs) {
  const std::string whole = image(timer(3, 0, 0, 1));
  for (size_t size = 0; size < whole.size(); ++size)
    EXPECT_EQ(after(whole.substr(0, size)), whole.substr(0, size));
}

}  // namespace
}  // namespace box
