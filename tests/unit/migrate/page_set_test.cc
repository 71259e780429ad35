#include "migrate/page_set.h"

#include <gtest/gtest.h>

#include <map>
#include <random>

#include "migrate/pages.h"
#include "tests/unit/migrate/tree_tools.h"

namespace migrate {
namespace {

constexpr uint64_t kPage = kPageSize;

TEST(PageSet, WhereAPageIs) {
  PageSet missing;
  EXPECT_TRUE(missing.empty());
  EXPECT_EQ(std::nullopt, missing.origin(0x10000));
  missing.add(0x10000, 0x14000);
  missing.add(0x20000, 0x21000);
  EXPECT_EQ(0x5000U, missing.bytes());
  EXPECT_EQ(0x13000U, missing.origin(0x13000));
  EXPECT_EQ(std::nullopt, missing.origin(0x14000));
  EXPECT_EQ(std::nullopt, missing.origin(0xf000));
  EXPECT_EQ(0x20000U, missing.origin(0x20000));
}

TEST(PageSet, TheFirstPieceOfARange) {
  PageSet missing;
  missing.add(0x10000, 0x14000);
  missing.add(0x20000, 0x21000);
  auto piece = missing.first_in(0x12000, 0x30000);
  ASSERT_TRUE(piece);
  EXPECT_EQ(0x12000U, piece->begin);
  EXPECT_EQ(0x14000U, piece->end);
  EXPECT_EQ(0x12000U, piece->now);
  piece = missing.first_in(0x14000, UINT64_MAX);
  ASSERT_TRUE(piece);
  EXPECT_EQ(0x20000U, piece->begin);
  EXPECT_FALSE(missing.first_in(0x14000, 0x20000));
  EXPECT_FALSE(missing.first_in(0x12000, 0x12000));
  EXPECT_FALSE(missing.first_in(0x13000, 0x12000));
}

TEST(PageSet, WhatArrivesLeavesTheRest) {
  PageSet missing;
  missing.add(0x10000, 0x18000);
  missing.drop(0x12000, 0x13000);
  EXPECT_EQ(0x7000U, missing.bytes());
  EXPECT_EQ(0x11000U, missing.origin(0x11000));
  EXPECT_EQ(std::nullopt, missing.origin(0x12000));
  EXPECT_EQ(0x13000U, missing.origin(0x13000));
  missing.drop(0, UINT64_MAX);
  EXPECT_TRUE(missing.empty());
}

TEST(PageSet, WhatIsAddedTwiceIsThereOnce) {
  PageSet missing;
  missing.add(0x10000, 0x18000);
  missing.add(0x14000, 0x1a000);
  missing.add(0x10000, 0x12000);
  EXPECT_EQ(0xa000U, missing.bytes());
  missing.drop(0x10000, 0x1a000);
  EXPECT_TRUE(missing.empty());
}

TEST(PageSet, MovedMemoryIsAskedForByItsOldName) {
  PageSet missing;
  missing.add(0x10000, 0x14000);
  missing.move(0x11000, 0x50000, 0x2000);
  EXPECT_EQ(0x10000U, missing.origin(0x10000));
  EXPECT_EQ(std::nullopt, missing.origin(0x11000));
  EXPECT_EQ(0x11000U, missing.origin(0x50000));
  EXPECT_EQ(0x12000U, missing.origin(0x51000));
  EXPECT_EQ(0x13000U, missing.origin(0x13000));
  auto piece = missing.first_in(0x11000, 0x14000);
  ASSERT_TRUE(piece);
  EXPECT_EQ(0x13000U, piece->end);
  EXPECT_EQ(0x50000U, piece->now);
  // Back and a part of it, and what is given away is meant as it is now.
  missing.move(0x51000, 0x11000, 0x1000);
  EXPECT_EQ(0x12000U, missing.origin(0x11000));
  missing.drop_now(0x11000, 0x12000);
  EXPECT_EQ(std::nullopt, missing.first_in(0x12000, 0x13000));
  EXPECT_EQ(0x11000U, missing.origin(0x50000));
  EXPECT_EQ(0x3000U, missing.bytes());
}

/// The same as a table of pages: where each one is now → where it was.
class Model {
 public:
  void add(uint64_t page) { pages_[page] = page; }
  void drop(uint64_t begin, uint64_t end) {
    std::erase_if(pages_, [&](const auto& p) { return p.second >= begin && p.second < end; });
  }
  void drop_now(uint64_t begin, uint64_t end) {
    std::erase_if(pages_, [&](const auto& p) { return p.first >= begin && p.first < end; });
  }
  /// As mremap(2) does it: what was at the new place is unmapped first.
  void move(uint64_t from, uint64_t to, uint64_t length) {
    drop_now(to, to + length);
    std::map<uint64_t, uint64_t> moved;
    for (const auto& [now, origin] : pages_)
      moved[now >= from && now < from + length ? now - from + to : now] = origin;
    pages_ = std::move(moved);
  }
  [[nodiscard]] const std::map<uint64_t, uint64_t>& pages() const { return pages_; }

 private:
  std::map<uint64_t, uint64_t> pages_;
};

TEST(PageSet, IsAsATableOfPagesWouldBe) {
  constexpr uint64_t kPages = 48, kStart = 0x100000;
  for (unsigned seed = 0; seed < 300; ++seed) {
    std::mt19937 dice(seed);
    auto number = [&](uint64_t most) { return static_cast<uint64_t>(dice()) % most; };
    PageSet missing;
    Model model;
    for (uint64_t page = number(4); page < kPages;) {
      const uint64_t end = std::min(kPages, page + 1 + number(8));
      missing.add(kStart + page * kPage, kStart + end * kPage);
      for (uint64_t p = page; p < end; ++p) model.add(kStart + p * kPage);
      page = end + 1 + number(4);
    }
    for (int step = 0; step < 60; ++step) {
      const uint64_t length = (1 + number(12)) * kPage;
      const uint64_t from = kStart + number(kPages) * kPage, to = kStart + number(kPages) * kPage;
      switch (number(3)) {
        case 0:
          missing.drop(from, from + kPage);
          model.drop(from, from + kPage);
          break;
        case 1:
          if (number(3) != 0) break;
          missing.drop_now(from, from + length);
          model.drop_now(from, from + length);
          break;
        default:
          if (from < to + length && to < from + length) break;  // mremap(2) refuses it
          missing.drop_now(to, to + length);
          missing.move(from, to, length);
          model.move(from, to, length);
      }
      ASSERT_EQ(model.pages().size() * kPage, missing.bytes()) << seed << ", step " << step;
      ASSERT_EQ(model.pages().empty(), missing.empty());
      std::map<uint64_t, uint64_t> now_of;
      for (const auto& [now, origin] : model.pages()) now_of[origin] = now;
      for (uint64_t page = kStart; page < kStart + (kPages + 12) * kPage; page += kPage) {
        const auto known = model.pages().find(page);
        ASSERT_EQ(known == model.pages().end() ? std::nullopt : std::optional(known->second),
                  missing.origin(page))
            << seed << ", step " << step << std::hex << " at " << page;
        const auto piece = missing.first_in(page, page + kPage);
        const auto there = now_of.find(page);
        ASSERT_EQ(there != now_of.end(), piece.has_value()) << seed << ", step " << step;
        if (piece) {
          ASSERT_EQ(there->second, piece->now) << seed << ", step " << step;
        }
      }
    }
  }
}

// --- CRIU's images

class PagemapTest : public testing::Test {
 protected:
  static std::string word(uint32_t number) {
    std::string text;
    for (int i = 0; i < 4; ++i) text += static_cast<char>(number >> (8 * i));
    return text;
  }
  static std::string varint(uint64_t number) {
    std::string text;
    for (; number > 0x7f; number >>= 7) text += static_cast<char>(number | 0x80);
    return text + static_cast<char>(number);
  }
  /// One message: its fields by number.
  static std::string entry(const std::map<uint64_t, uint64_t>& fields) {
    std::string text;
    for (const auto& [number, value] : fields) text += varint(number << 3) + varint(value);
    return word(static_cast<uint32_t>(text.size())) + text;
  }
  static std::string image(const std::string& entries) {
    return word(0x54564319) + word(0x56084025) + entry({{1, 1}}) + entries;
  }
  void write(const std::string& name, const std::string& text) const {
    base::write_file(directory_.path() + "/" + name, text);
  }
  std::map<uint32_t, PageSet> read() const { return read_lazy_pages(directory_.path()); }

  base::TempDir directory_ = base::TempDir::make("/var/tmp", "drover-unit-");
};

constexpr uint64_t kParent = 1, kLazy = 2, kPresent = 4;

TEST_F(PagemapTest, OnlyWhatIsLazyIsMissing) {
  write("pagemap-7.img",
        image(entry({{1, 0x10000}, {2, 4}, {4, kLazy}}) + entry({{1, 0x20000}, {2, 2}, {4, kPresent}}) +
              entry({{1, 0x30000}, {2, 2}, {4, kPresent | kLazy}}) +
              entry({{1, 0x40000}, {2, 2}, {4, kParent}}) +
              entry({{1, 0x7f0000000000}, {2, 0}, {4, kLazy}, {5, 300}})));
  write("pagemap-8.img", image(""));
  write("pagemap-shmem-9.img", image(entry({{1, 0x10000}, {2, 4}, {4, kLazy}})));
  write("pagemap-10.img.old", "nothing of ours");
  auto lazy = read();
  ASSERT_EQ(2U, lazy.size());
  EXPECT_TRUE(lazy.at(8).empty());
  EXPECT_EQ(304 * kPage, lazy.at(7).bytes());
  EXPECT_EQ(0x13000U, lazy.at(7).origin(0x13000));
  EXPECT_EQ(std::nullopt, lazy.at(7).origin(0x20000));
  EXPECT_EQ(0x7f0000000000U, lazy.at(7).origin(0x7f0000000000));
}

TEST_F(PagemapTest, AnEndAnywhere) {
  const std::string last = entry({{1, 0x7f0000020000}, {2, 200}, {4, kLazy}});
  const std::string whole = image(entry({{1, 0x10000}, {2, 4}, {4, kLazy}}) + last);
  for (size_t length = 0; length < whole.size(); ++length) {
    write("pagemap-7.img", whole.substr(0, length));
    const std::string said = error_of([&] { read(); });
    const bool between = length == 8 || length == image("").size() || length == whole.size() - last.size();
    EXPECT_EQ(between, said == "no error") << length << ": " << said;
  }
  write("pagemap-7.img", whole);
  EXPECT_EQ("no error", error_of([&] { read(); }));
}

TEST_F(PagemapTest, WhatCannotBeRight) {
  const std::pair<std::string, std::string> cases[] = {
      {image(entry({{1, 0x10001}, {2, 1}, {4, kLazy}})),
       "an image of CRIU's has 1 pages at 0x10001 in its pagemap"},
      {image(entry({{1, uint64_t{1} << 56}, {2, 1}, {4, kLazy}})),
       "an image of CRIU's has 1 pages at 0x100000000000000 in its pagemap"},
      {image(entry({{1, 0x10000}, {4, kLazy}, {5, uint64_t{1} << 45}})),
       "an image of CRIU's has 35184372088832 pages at 0x10000 in its pagemap"},
      {word(0x54564319) + word(0x12345678), "an image of CRIU's is no pagemap"},
      {image(word(3) + "\x0a\x01x"), "an image of CRIU's has a field of kind 2 in its pagemap"},
      {image(word(1) + "\x08"), "an image of CRIU's has a number in its pagemap that does not end"},
      {image(word(12) + "\x08" + std::string(11, '\xff')),
       "an image of CRIU's has a number in its pagemap that does not end"},
  };
  for (const auto& [text, said] : cases) {
    write("pagemap-7.img", text);
    EXPECT_EQ(said, error_of([&] { read(); }));
  }
}

}  // namespace
}  // namespace migrate
