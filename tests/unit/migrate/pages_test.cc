#include "migrate/pages.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <thread>

#include "base/error.h"
#include "base/fd.h"
#include "tests/unit/migrate/tree_tools.h"

namespace migrate {
namespace {

using namespace std::chrono_literals;

std::string number(uint64_t value, int bytes) {
  std::string text;
  for (int i = 0; i < bytes; ++i) text += static_cast<char>(value >> (8 * i));
  return text;
}
std::string run(uint64_t pid, uint64_t address, uint64_t pages) {
  return number(pid, 4) + number(address, 8) + number(pages, 4);
}
Message message(Frame type, std::string_view text) {
  const auto bytes = std::as_bytes(std::span(text));
  return {type, {bytes.begin(), bytes.end()}};
}

TEST(Want, Runs) {
  const auto runs =
      parse_runs(message(Frame::kWant, run(7, 0x7f0000001000, 64) + run(0xffffffff, 0xfffffffffff000, 1)));
  ASSERT_EQ(2U, runs.size());
  EXPECT_EQ(7U, runs[0].pid);
  EXPECT_EQ(0x7f0000001000U, runs[0].address);
  EXPECT_EQ(64U, runs[0].pages);
  EXPECT_EQ(64U * 4096, runs[0].bytes());
  EXPECT_EQ(0xffffffffU, runs[1].pid);
  EXPECT_EQ(0xfffffffffff000U, runs[1].address);
}

TEST(Want, OutOfBounds) {
  auto said = [](const std::string& text) {
    return error_of([&] { parse_runs(message(Frame::kWant, text)); });
  };
  const std::string whole = run(1, 0x1000, 1) + run(1, 0x2000, 1);
  for (size_t length = 0; length < whole.size(); ++length) {
    if (length == 16) continue;
    EXPECT_EQ("the other node named memory in " + std::to_string(length) + " bytes, which cannot be right",
              said(whole.substr(0, length)));
  }
  EXPECT_EQ("the other node named 0 pages at 0x1000, which cannot be right", said(run(1, 0x1000, 0)));
  EXPECT_EQ("the other node named 65 pages at 0x1000, which cannot be right", said(run(1, 0x1000, 65)));
  EXPECT_EQ("the other node named 4294967295 pages at 0x1000, which cannot be right",
            said(run(1, 0x1000, 0xffffffff)));
  EXPECT_EQ("the other node named 1 pages at 0x1001, which cannot be right", said(run(1, 0x1001, 1)));
  EXPECT_EQ("the other node named 1 pages at 0xfffffffffffff000, which cannot be right",
            said(run(1, 0xfffffffffffff000, 1)));
}

/// Memory that this process has, and a source that serves it over two pipes.
class ServeTest : public testing::Test {
 protected:
  ~ServeTest() override {
    to_source_.write.close();
    if (source_.joinable()) source_.join();
    ::munmap(memory_, kSize);
  }

  void serve() {
    source_ = std::jthread([this] {
      try {
        Wire wire(to_source_.read.get(), to_destination_.write.get());
        served_ = 0;
        PageSender sender(wire, {{7, ::getpid()}});
        last_ = serve_pages(wire, sender, 10s, [this](uint64_t bytes) { served_ += bytes; }).type;
      } catch (const base::Error& e) {
        failure_ = e.message();
        to_destination_.write.close();
      }
    });
  }
  [[nodiscard]] uint64_t address() const { return reinterpret_cast<uint64_t>(memory_); }
  void fill() {
    for (size_t i = 0; i < kSize; i += 8) std::memcpy(memory_ + i, &i, 8);
  }
  std::string asked(const PageRun& wanted) {
    send_runs(wire_, Frame::kWant, std::span(&wanted, 1));
    const Pages pages = parse_pages(wire_.recv(10s));
    EXPECT_EQ(wanted.pid, pages.run.pid);
    EXPECT_EQ(wanted.address, pages.run.address);
    EXPECT_EQ(wanted.pages, pages.run.pages);
    return {reinterpret_cast<const char*>(pages.data.data()), pages.data.size()};
  }

  static constexpr size_t kSize = 128 * kPageSize;
  char* memory_ =
      static_cast<char*>(::mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  base::Pipe to_source_ = base::make_pipe(), to_destination_ = base::make_pipe();
  Wire wire_{to_destination_.read.get(), to_source_.write.get()};
  std::atomic<uint64_t> served_ = 0;
  std::optional<Frame> last_;
  std::string failure_;
  std::jthread source_;
};

TEST_F(ServeTest, WhatIsAskedForComes) {
  fill();
  serve();
  const std::string all(memory_, kSize);
  EXPECT_EQ(all.substr(0, 64 * kPageSize), asked({7, address(), 64}));
  EXPECT_EQ(all.substr(5 * kPageSize, kPageSize), asked({7, address() + 5 * kPageSize, 1}));
  const PageRun runs[] = {{7, address() + kPageSize, 1}, {7, address(), 2}};
  send_runs(wire_, Frame::kWant, runs);
  EXPECT_EQ(address() + kPageSize, parse_pages(wire_.recv(10s)).run.address);
  EXPECT_EQ(2U, parse_pages(wire_.recv(10s)).run.pages);
  wire_.send_json(Frame::kWhole, nlohmann::json::object());
  source_.join();
  EXPECT_EQ(Frame::kWhole, last_);
  EXPECT_EQ(68 * kPageSize, served_);
}

TEST_F(ServeTest, WhatThePatternCannotSqueezeComesToo) {
  uint64_t state = 1;
  for (size_t i = 0; i < kSize; i += 8) {
    state = state * 6364136223846793005U + 1442695040888963407U;
    const uint64_t mixed = state ^ (state >> 29);
    std::memcpy(memory_ + i, &mixed, 8);
  }
  serve();
  EXPECT_EQ(std::string(memory_, 64 * kPageSize), asked({7, address(), 64}));
}

/// A process may have taken away its own right to read: a garbage collector does.
TEST_F(ServeTest, MemoryThatTheProcessMayNotRead) {
  fill();
  const std::string all(memory_, kSize);
  ASSERT_EQ(0, ::mprotect(memory_ + kPageSize, kPageSize, PROT_NONE));
  ASSERT_EQ(0, ::mprotect(memory_ + 3 * kPageSize, kPageSize, PROT_WRITE));
  serve();
  EXPECT_EQ(all.substr(0, 8 * kPageSize), asked({7, address(), 8}));
  EXPECT_EQ(all.substr(kPageSize, kPageSize), asked({7, address() + kPageSize, 1}));
}

TEST_F(ServeTest, MemoryThatIsNotThere) {
  ASSERT_EQ(0, ::munmap(memory_ + kPageSize, kPageSize));
  serve();
  const PageRun wanted{7, address(), 2};
  send_runs(wire_, Frame::kWant, std::span(&wanted, 1));
  EXPECT_NE("no error", error_of([&] { wire_.recv(10s); }));
  source_.join();
  EXPECT_EQ(std::format("cannot read the memory of process {} at {:#x}: Input/output error", ::getpid(),
                        address() + kPageSize),
            failure_);
}

TEST_F(ServeTest, AProcessThatTheBoxDoesNotHave) {
  serve();
  const PageRun wanted{8, address(), 1};
  send_runs(wire_, Frame::kWant, std::span(&wanted, 1));
  EXPECT_NE("no error", error_of([&] { wire_.recv(10s); }));
  source_.join();
  EXPECT_EQ("the other node asked for memory of process 8, which the box does not have", failure_);
}

TEST(Runs, OfARange) {
  std::vector<PageRun> runs;
  append_runs(runs, 7, 0x1000, 0x1000 + 129 * kPageSize);
  ASSERT_EQ(3U, runs.size());
  EXPECT_EQ(0x1000U, runs[0].address);
  EXPECT_EQ(64U, runs[1].pages);
  EXPECT_EQ(0x1000 + 128 * kPageSize, runs[2].address);
  EXPECT_EQ(1U, runs[2].pages);
}

/// What a running process has given up meanwhile is left out.
TEST_F(ServeTest, PushedWithHoles) {
  fill();
  const std::string all(memory_, kSize);
  ASSERT_EQ(0, ::munmap(memory_ + 2 * kPageSize, 3 * kPageSize));
  Wire wire(to_source_.read.get(), to_destination_.write.get());
  PageSender sender(wire, {{7, ::getpid()}, {8, 0x7ffffffe}});
  EXPECT_EQ(5 * kPageSize, sender.push({7, address(), 8}));
  EXPECT_EQ(0U, sender.push({8, address(), 8}));  // these have ended, before and after it was looked for them
  EXPECT_EQ(0U, sender.push({9, address(), 8}));
  const Pages first = parse_pages(wire_.recv(10s)), second = parse_pages(wire_.recv(10s));
  EXPECT_EQ(2U, first.run.pages);
  EXPECT_EQ(address() + 5 * kPageSize, second.run.address);
  EXPECT_EQ(all.substr(5 * kPageSize, 3 * kPageSize),
            std::string(reinterpret_cast<const char*>(second.data.data()), second.data.size()));
}

/// Frames that a source of ours would not send, made from one that it did.
class PagesTest : public ServeTest {
 protected:
  std::string frame(uint32_t pages) {
    fill();
    serve();
    const PageRun wanted{7, address(), pages};
    send_runs(wire_, Frame::kWant, std::span(&wanted, 1));
    const Message got = wire_.recv(10s);
    wire_.send_json(Frame::kWhole, nlohmann::json::object());
    source_.join();
    return {reinterpret_cast<const char*>(got.bytes.data()), got.bytes.size()};
  }
  static std::string said(const std::string& text) {
    return error_of([&] { parse_pages(message(Frame::kPages, text)); });
  }
};

TEST_F(PagesTest, AnEndAnywhere) {
  const std::string whole = frame(2);
  EXPECT_EQ("no error", said(whole));
  for (size_t length = 0; length < whole.size(); ++length)
    EXPECT_NE("no error", said(whole.substr(0, length)));
  EXPECT_NE("no error", said(whole + "x"));
  EXPECT_EQ("the other node sent memory in 15 bytes", said(whole.substr(0, 15)));
}

TEST_F(PagesTest, AnotherLengthThanItSays) {
  const std::string packed = frame(16).substr(16);
  EXPECT_EQ("no error", said(run(7, address(), 16) + packed));
  EXPECT_EQ("the other node sent 65536 bytes where 69632 were due", said(run(7, address(), 17) + packed));
  EXPECT_EQ("the other node's data cannot be decompressed: Destination buffer is too small",
            said(run(7, address(), 15) + packed));
  EXPECT_EQ("the other node named 0 pages at 0x1000, which cannot be right",
            said(run(7, 0x1000, 0) + packed));
}

/// 64 MiB of zeros in a few bytes (RFC 8878: a frame of run-length blocks): nothing is unpacked beyond the
/// run.
TEST_F(PagesTest, ABomb) {
  std::string bomb = number(0xfd2fb528, 4) + number(0x80, 1) + number(0x58, 1) + number(64 << 20, 4);
  for (int block = 0; block < 512; ++block)
    bomb += number((128U << 10) << 3 | 1 << 1 | (block == 511 ? 1 : 0), 3) + std::string(1, '\0');
  EXPECT_EQ("the other node's data cannot be decompressed: Destination buffer is too small",
            said(run(7, 0x1000, 64) + bomb));
}

}  // namespace
}  // namespace migrate
