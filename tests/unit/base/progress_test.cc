#include "base/progress.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <poll.h>
#include <pty.h>
#include <unistd.h>

#include <chrono>
#include <sstream>
#include <thread>

#include "base/error.h"
#include "base/fd.h"

namespace base {
namespace {

using namespace std::chrono_literals;

/// What `body` writes to stderr while that is a terminal of so many columns.
std::string on_terminal(unsigned short columns, auto body) {
  winsize size = {.ws_row = 24, .ws_col = columns, .ws_xpixel = 0, .ws_ypixel = 0};
  int master = -1, slave = -1;
  if (::openpty(&master, &slave, nullptr, nullptr, &size) != 0) throw sys_error("cannot open a terminal");
  Fd screen(master), terminal(slave), ours = duplicate(STDERR_FILENO);
  ::dup2(terminal.get(), STDERR_FILENO);
  body();
  ::dup2(ours.get(), STDERR_FILENO);
  std::string text(1 << 16, '\0');
  pollfd polled = {.fd = screen.get(), .events = POLLIN, .revents = 0};
  size_t size_read = 0;
  while (::poll(&polled, 1, 0) > 0)
    size_read += static_cast<size_t>(::read(screen.get(), text.data() + size_read, text.size() - size_read));
  text.resize(size_read);
  return text;
}

bool matches(const std::string& text, const std::string& pattern) {
  return testing::Matcher<std::string>(testing::MatchesRegex(pattern)).Matches(text);
}

std::string on_stderr(auto body) {
  testing::internal::CaptureStderr();
  body();
  return testing::internal::GetCapturedStderr();
}

/// What each redraw of the bar left on its line.
std::vector<std::string> redraws(const std::string& text) {
  std::vector<std::string> lines;
  std::string clear = "\r\x1b[K";
  for (size_t at = text.find(clear); at != std::string::npos;) {
    size_t next = text.find(clear, at + clear.size());
    lines.push_back(text.substr(at + clear.size(), next - at - clear.size()));
    at = next;
  }
  return lines;
}

void copy_layer(Progress& progress, std::chrono::milliseconds step) {
  Phase phase(progress, "copying layer", 10 << 20);
  for (uint64_t done = 0; done <= 10; ++done) {
    phase.at(done << 20);
    std::this_thread::sleep_for(step);
  }
}

TEST(Bar, FitsTheTerminalAndLeavesASummary) {
  for (unsigned short columns : std::to_array<unsigned short>({20, 40, 80, 200})) {
    auto progress = make_progress(Talk::kBar);
    auto lines = redraws(on_terminal(columns, [&] { copy_layer(*progress, 20ms); }));
    ASSERT_GE(lines.size(), 3u);
    std::string summary = lines.back();
    lines.pop_back();
    for (const std::string& line : lines) EXPECT_LT(line.size(), columns) << line;
    EXPECT_TRUE(matches(summary, "copying layer: 0\\.[0-9] s, 10\\.0 MiB at [0-9]+\\.[0-9] MiB/s\r\n"))
        << summary;
    EXPECT_EQ(lines.front().contains("[-----"), columns >= 80) << lines.front();
    EXPECT_EQ(lines.back().contains("###"), columns >= 80) << lines.back();
  }
}

TEST(Bar, IsDrawnTenTimesASecondAtMost) {
  auto progress = make_progress(Talk::kBar);
  auto begun = std::chrono::steady_clock::now();
  auto lines = redraws(on_terminal(80, [&] {
    Phase phase(*progress, "busy", 1'000'000);
    for (uint64_t done = 0; done < 1'000'000; ++done) phase.at(done);
  }));
  auto most = (std::chrono::steady_clock::now() - begun) / 100ms + 2;  // and the first one, and the summary
  EXPECT_LE(static_cast<int64_t>(lines.size()), most);
}

TEST(Bar, CountsStepsWhereThereAreFew) {
  auto progress = make_progress(Talk::kBar);
  auto lines = redraws(on_terminal(80, [&] {
    Phase phase(*progress, "starting boxes", 4);
    std::this_thread::sleep_for(150ms);
    phase.at(2);
  }));
  ASSERT_EQ(lines.size(), 3u);
  EXPECT_TRUE(lines[1].contains("50 %  2 of 4")) << lines[1];
  EXPECT_FALSE(lines[2].contains("/s")) << lines[2];
}

TEST(Bar, ANoteStandsOnALineOfItsOwn) {
  auto progress = make_progress(Talk::kBar);
  auto lines = redraws(on_terminal(80, [&] {
    Phase phase(*progress, "copying", 100);
    progress->note("retrying");
  }));
  ASSERT_EQ(lines.size(), 3u);
  EXPECT_EQ(lines[1], "retrying\r\n");
}

TEST(Bar, TimeGoesOnWhereNothingIsReported) {
  auto progress = make_progress(Talk::kBar);
  auto lines = redraws(on_terminal(80, [&] {
    Phase phase(*progress, "waiting");
    std::this_thread::sleep_for(2500ms);
  }));
  ASSERT_EQ(lines.size(), 4u);
  EXPECT_EQ(lines[2], "waiting 0:02");
}

TEST(Bar, OfAWholeShowsItsShareAndTimeLeft) {
  for (unsigned short columns : std::to_array<unsigned short>({20, 60, 80, 200})) {
    auto progress = make_progress(Talk::kBar);
    auto lines = redraws(on_terminal(columns, [&] {
      WholeWork whole(*progress, "build node", {{"plan", 0}, {"fetch", 100}, {"pack", 300}});
      {
        Phase plan(*progress, "plan");
      }
      {
        Phase fetch(*progress, "fetch", 100);
        std::this_thread::sleep_for(150ms);
        fetch.at(50);
      }
      Phase pack(*progress, "pack");
      Phase part_of_it(*progress, "hash");
    }));
    for (const std::string& line : lines) EXPECT_LT(line.size(), columns + size_t{2}) << line;
    ASSERT_EQ(lines.size(), 9u);
    if (columns < 60) continue;
    EXPECT_TRUE(lines[2].contains("  0 %   6:40 left  fetch  0:00")) << lines[2];
    EXPECT_TRUE(lines[3].contains("  0 %   5:00 left  fetch  50 %")) << lines[3];
    EXPECT_TRUE(lines[6].contains("  5:00 left  hash  0:00")) << lines[6];
    EXPECT_EQ(lines[2].contains("build node [----------"), columns >= 80) << lines[2];
    EXPECT_EQ(lines[8].substr(0, 6), "pack: ");
  }
}

TEST(Plain, ABeginningAndAnEndWithSeconds) {
  auto progress = make_progress(Talk::kPlain);
  std::string text = on_stderr([&] { copy_layer(*progress, 0ms); });
  EXPECT_TRUE(matches(text,
                      "copying layer \\.\\.\\.\n"
                      "copying layer: 0\\.0 s, 10\\.0 MiB at [0-9]+\\.[0-9] .iB/s\n"))
      << text;
}

TEST(Plain, TellsAFailure) {
  auto progress = make_progress(Talk::kPlain);
  std::string text = on_stderr([&] {
    try {
      Phase phase(*progress, "copying layer", 100);
      throw error("no");
    } catch (const Error&) {
    }
  });
  EXPECT_EQ(text, "copying layer ...\ncopying layer: failed after 0.0 s\n");
}

TEST(Json, LinesThatAProgramCanRead) {
  auto progress = make_progress(Talk::kJson);
  std::istringstream text(on_stderr([&] {
    progress->note("a \"note\" \xff");
    copy_layer(*progress, 50ms);
  }));
  std::vector<nlohmann::json> lines;
  for (std::string line; std::getline(text, line);) lines.push_back(nlohmann::json::parse(line));
  ASSERT_GE(lines.size(), 4u);
  EXPECT_TRUE(lines[0].contains("note"));
  EXPECT_EQ(lines[1], nlohmann::json({{"phase", "copying layer"}, {"done", 0}, {"total", 10 << 20}}));
  EXPECT_EQ(lines.back()["done"], 10 << 20);
  EXPECT_EQ(lines.back()["failed"], false);
  EXPECT_GT(lines.back()["seconds"], 0.5);
}

TEST(Json, OfAWholeTellsItsShareAndTimeLeft) {
  auto progress = make_progress(Talk::kJson);
  std::istringstream text(on_stderr([&] {
    WholeWork whole(*progress, "build", {{"plan", 1}, {"pack", 300}});
    {
      Phase pack(*progress, "pack", 100);
      std::this_thread::sleep_for(150ms);
      pack.at(75);
    }
    EXPECT_EQ(whole.end().at(0).phase, "pack");
    EXPECT_TRUE(whole.end().empty());
    Phase after(*progress, "after");
  }));
  std::vector<nlohmann::json> lines;
  for (std::string line; std::getline(text, line);) lines.push_back(nlohmann::json::parse(line));
  ASSERT_EQ(lines.size(), 5u);
  EXPECT_NEAR(lines[0]["whole_left"].get<double>(), 300, 1);
  EXPECT_NEAR(lines[1]["whole_left"].get<double>(), 0.05, 0.04);
  EXPECT_NEAR(lines[1]["whole_done"].get<double>(), 0.75, 0.1);
  EXPECT_NEAR(lines[2]["whole_left"].get<double>(), 0, 0.01);
  EXPECT_FALSE(lines[3].contains("whole_left"));
}

TEST(Silent, SaysNothing) {
  auto progress = make_progress(Talk::kSilent);
  EXPECT_EQ(on_stderr([&] { copy_layer(*progress, 0ms); }), "");
}

TEST(Phases, OneWithinAnother) {
  auto progress = make_progress(Talk::kPlain);
  std::string text = on_stderr([&] {
    Phase outer(*progress, "building", 3);
    {
      Phase inner(*progress, "packing", 0);
    }
    outer.at(1);
  });
  EXPECT_EQ(text, "building ...\npacking ...\npacking: 0.0 s\nbuilding: 0.0 s\n");
}

TEST(HumanSize, Units) {
  EXPECT_EQ(human_size(0), "0 B");
  EXPECT_EQ(human_size(1023), "1023 B");
  EXPECT_EQ(human_size(1024), "1.0 KiB");
  EXPECT_EQ(human_size((1 << 20) - 1), "1.0 MiB");
  EXPECT_EQ(human_size(3ull << 29), "1.5 GiB");
  EXPECT_EQ(human_size(5ull << 50), "5.0 PiB");
}

}  // namespace
}  // namespace base
