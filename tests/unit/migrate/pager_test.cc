#include "migrate/pager.h"

#include <gtest/gtest.h>
#include <linux/userfaultfd.h>
#include <nlohmann/json.hpp>
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstring>
#include <functional>
#include <thread>

#include "base/error.h"
#include "base/fd.h"
#include "base/mount.h"
#include "box/restore.h"
#include "migrate/guard.h"
#include "migrate/local_socket.h"
#include "migrate/stream.h"
#include "tests/unit/migrate/tree_tools.h"

namespace migrate {
namespace {

using namespace std::chrono_literals;

constexpr size_t kPages = 2048;  // 8 MiB: more than is asked for at once
constexpr size_t kSize = kPages * kPageSize;

/// What a page of the box holds: its own number all over.
uint64_t content(size_t page) { return page * 0x9e3779b97f4a7c15U + 1; }

/// Stands for a box: a process with a memory that is missing. It does as CRIU does: its memory is registered
/// with a userfaultfd, and that is handed over together with its pid in the box. The source is this process,
/// which has the same memory at the same address.
/// Part of it has been pushed before, by the parameter: none, half of it, all.
enum class Before { kNothing, kHalf, kAll };
class PagerTest : public testing::TestWithParam<Before> {
 protected:
  PagerTest() {
    for (size_t page = 0; page < kPages; ++page)
      for (size_t i = 0; i < kPageSize; i += 8) {
        const uint64_t word = content(page);
        std::memcpy(memory_ + page * kPageSize + i, &word, 8);
      }
    base::write_file(work() + "/cgroup.kill", "");
    ::setenv("PATH", DROVER_BIN_DIR ":/usr/bin:/bin", 1);
    std::string image = "\x19\x43\x56\x54\x25\x40\x08\x56";
    image += entry(0, 0) + entry(reinterpret_cast<uint64_t>(memory_), kPages);
    base::write_file(work() + "/pagemap-7.img", image);
  }
  ~PagerTest() override {
    if (box_ > 0) {
      ::kill(box_, SIGKILL);
      ::waitpid(box_, nullptr, 0);
    }
    ::munmap(memory_, kSize);
  }
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "needs root: a userfaultfd that hears of forks is root's";
    pager_.emplace(work(), work(), work());
  }
  [[nodiscard]] std::string work() const { return directory_.path(); }

  static std::string entry(uint64_t address, uint64_t pages) {
    std::string text;
    for (const auto& [number, value] : {std::pair<uint64_t, uint64_t>{1, address}, {2, pages}, {4, 2}}) {
      text += static_cast<char>(number << 3);
      uint64_t rest = value;
      for (; rest > 0x7f; rest >>= 7) text += static_cast<char>(rest | 0x80);
      text += static_cast<char>(rest);
    }
    return std::string(1, static_cast<char>(text.size())) + std::string(3, '\0') + text;
  }

  /// Starts the box; `life` is what it does, and 0 when everything was as it must be.
  void start(const std::function<int(char* memory)>& life) {
    box_ = ::fork();
    if (box_ != 0) return;
    ::alarm(60);
    try {
      register_memory();
      ::_exit(life(memory_));
    } catch (...) {
    }
    ::_exit(99);
  }
  void register_memory() {
    constexpr int kFixed = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;
    if (::mmap(memory_, kSize, PROT_READ | PROT_WRITE, kFixed, -1, 0) != memory_) ::_exit(90);
    base::Fd fault(static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC)));
    uffdio_api api{UFFD_API,
                   UFFD_FEATURE_EVENT_FORK | UFFD_FEATURE_EVENT_REMAP | UFFD_FEATURE_EVENT_REMOVE |
                       UFFD_FEATURE_EVENT_UNMAP,
                   0};
    if (::ioctl(fault.get(), UFFDIO_API, &api) != 0) ::_exit(91);
    uffdio_register all{{reinterpret_cast<uint64_t>(memory_), kSize}, UFFDIO_REGISTER_MODE_MISSING, 0};
    if (::ioctl(fault.get(), UFFDIO_REGISTER, &all) != 0) ::_exit(92);
    const base::Fd to(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    (work() + "/" + box::kPagerSocket).copy(address.sun_path, sizeof address.sun_path - 1);
    if (::connect(to.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) ::_exit(93);
    const uint32_t pid = 7, zombie = 0xffffffff, finished = 0x52535446;
    if (::send(to.get(), &pid, 4, 0) != 4) ::_exit(94);
    send_descriptor(to.get(), fault.get());
    if (::send(to.get(), &zombie, 4, 0) != 4 || ::send(to.get(), &finished, 4, 0) != 4) ::_exit(95);
  }

  using Serve = std::function<void(Wire& to, PageSender& sender)>;
  /// A connection to a source, that breaks off when it has served.
  struct Connection {
    Connection(Serve serve, std::vector<PageRun> push, std::vector<PageRun> stale, bool first) {
      source = std::jthread(
          [this, serve = std::move(serve), push = std::move(push), stale = std::move(stale), first] {
            Wire to(to_source.read.get(), to_destination.write.get());
            PageSender sender(to, {{7, ::getpid()}});
            try {
              if (first) rounds(to, sender, push, stale);
              serve(to, sender);
            } catch (const base::Error&) {
            }
            to_destination.write.close();
            to_source.read.close();
          });
    }
    ~Connection() { to_source.write.close(); }
    /// What will be stale is pushed with another page's content.
    static void rounds(Wire& to, PageSender& sender, const std::vector<PageRun>& push,
                       const std::vector<PageRun>& stale) {
      to.send_json(Frame::kRound, {{"final", false}, {"at_once", false}, {"forget", {7, 8}}});
      for (const PageRun& run : stale) send_wrong(to, run);
      to.send(Frame::kDataEnd);
      to.expect_json(Frame::kRoundDone, 10s);
      to.send_json(Frame::kRound, {{"final", true}, {"at_once", false}, {"forget", nlohmann::json::array()}});
      for (const PageRun& run : push) sender.push(run);
      if (!stale.empty()) send_runs(to, Frame::kStale, stale);
      to.send(Frame::kDataEnd);
      to.expect_json(Frame::kRoundDone, 10s);
    }
    static void send_wrong(Wire& to, const PageRun& run) {
      std::vector<std::byte> frame;
      for (int i = 0; i < 4; ++i) frame.push_back(std::byte(run.pid >> (8 * i)));
      for (int i = 0; i < 8; ++i) frame.push_back(std::byte(run.address >> (8 * i)));
      for (int i = 0; i < 4; ++i) frame.push_back(std::byte(run.pages >> (8 * i)));
      BlockPacker().pack(std::vector<std::byte>(run.bytes(), std::byte('!')), 1, frame);
      to.send(Frame::kPages, frame);
    }
    base::Pipe to_source = base::make_pipe(), to_destination = base::make_pipe();
    Wire wire{to_destination.read.get(), to_source.write.get()};
    std::jthread source;
  };

  /// A connection to the source that breaks off after so many bytes.
  std::unique_ptr<Connection> connect(uint64_t most = UINT64_MAX) {
    return connect([this, most](Wire& to, PageSender& sender) {
      uint64_t served = 0;
      serve_pages(to, sender, 20s, [&](uint64_t bytes) {
        served_ += bytes;
        if ((served += bytes) >= most) throw base::error("the link is cut");
      });
    });
  }
  /// The first one pushes.
  std::unique_ptr<Connection> connect(Serve serve) {
    std::vector<PageRun> push, stale;
    const auto begin = reinterpret_cast<uint64_t>(memory_);
    if (GetParam() == Before::kAll) append_runs(push, 7, begin, begin + kSize);
    if (GetParam() == Before::kHalf)
      for (size_t page = 0; page < kPages; page += 40) {
        append_runs(push, 7, begin + page * kPageSize, begin + (page + 20) * kPageSize);
        append_runs(stale, 7, begin + (page + 20) * kPageSize,
                    begin + std::min(page + 40, kPages) * kPageSize);
      }
    return std::make_unique<Connection>(std::move(serve), push, stale, !std::exchange(connected_, true));
  }

  /// All memory arrives, and then the box ends well.
  void bring() {
    const auto source = connect();
    Connection& connection = *source;
    EXPECT_EQ("no error", error_of([&] { pager_->run(connection.wire); }));
    EXPECT_TRUE(pager_->whole());
    finish();
  }
  void finish() {
    pager_->finish();
    int status = -1;
    EXPECT_EQ(box_, ::waitpid(box_, &status, 0));
    box_ = -1;
    EXPECT_TRUE(WIFEXITED(status)) << "signal " << WTERMSIG(status);
    EXPECT_EQ(0, WEXITSTATUS(status));
    EXPECT_EQ("", base::read_file(work() + "/cgroup.kill"));
  }

  // What a box does with its memory. In a child: no checks of gtest's there.

  static bool holds(const char* at, uint64_t word) {
    uint64_t first, last;
    std::memcpy(&first, at, 8);
    std::memcpy(&last, at + kPageSize - 8, 8);
    return first == word && last == word;
  }
  /// The pages of [first, end) are at `at` and following ones.
  static bool hold(const char* at, size_t first, size_t end) {
    for (size_t page = first; page < end; ++page, at += kPageSize)
      if (!holds(at, content(page))) return false;
    return true;
  }
  static bool zeros(const char* at, size_t pages) {
    for (size_t page = 0; page < pages; ++page, at += kPageSize)
      if (!holds(at, 0)) return false;
    return true;
  }

  char* memory_ =
      static_cast<char*>(::mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  base::TempDir directory_ = base::TempDir::make("/var/tmp", "drover-unit-");
  std::optional<Pager> pager_;
  pid_t box_ = -1;
  bool connected_ = false;
  std::atomic<uint64_t> served_ = 0;  ///< bytes, over connections of connect(most)
};
constexpr auto kBefore = [](const auto& info) {
  return std::array{"NothingBefore", "HalfBefore", "AllBefore"}.at(static_cast<size_t>(info.param));
};
INSTANTIATE_TEST_SUITE_P(Push, PagerTest, testing::Values(Before::kNothing, Before::kHalf, Before::kAll),
                         kBefore);

TEST_P(PagerTest, APageThatIsTouchedComesFirst) {
  start([](char* memory) {
    for (size_t page = kPages; page-- > 0;)
      if (!holds(memory + page * kPageSize, content(page))) return 1;
    return 0;
  });
  bring();
}

TEST_P(PagerTest, WhatIsNotTouchedComesToo) {
  base::Pipe go = base::make_pipe();
  start([&](char* memory) {
    char byte;
    if (::read(go.read.get(), &byte, 1) != 1) return 2;
    return hold(memory, 0, kPages) ? 0 : 1;
  });
  const auto source = connect();
  Connection& connection = *source;
  EXPECT_EQ("no error", error_of([&] { pager_->run(connection.wire); }));
  EXPECT_TRUE(pager_->whole());
  connection.to_source.write.close();
  connection.source.join();
  // 2048 pages: 51 times 20 of 40 pushed, and the first 8 of the last 8.
  EXPECT_EQ(GetParam() == Before::kAll    ? 0
            : GetParam() == Before::kHalf ? 51 * 20 * kPageSize
                                          : kSize,
            served_);
  base::write_full(go.write.get(), "x", "pipe");
  finish();
}

/// Between the last page and the record of it.
TEST_P(PagerTest, WhoHasAllItsMemoryNeedNotWait) {
  base::Pipe go = base::make_pipe(), done = base::make_pipe();
  start([&](char* memory) {
    char byte;
    if (::read(go.read.get(), &byte, 1) != 1) return 2;
    if (::madvise(memory, kPageSize, MADV_DONTNEED) != 0 || !zeros(memory, 1)) return 3;
    const pid_t child = ::fork();
    if (child == 0) ::_exit(hold(memory + kPageSize, 1, kPages) ? 0 : 1);
    int status = -1;
    if (::waitpid(child, &status, 0) != child || status != 0) return 4;
    return ::write(done.write.get(), "x", 1) == 1 ? 0 : 5;
  });
  const auto source = connect();
  Connection& connection = *source;
  EXPECT_EQ("no error", error_of([&] { pager_->run(connection.wire); }));
  base::write_full(go.write.get(), "x", "pipe");
  pollfd heard{done.read.get(), POLLIN, 0};
  for (const auto until = std::chrono::steady_clock::now() + 10s;
       ::poll(&heard, 1, 0) == 0 && std::chrono::steady_clock::now() < until;)
    pager_->attend(5ms);
  EXPECT_EQ(POLLIN, heard.revents);
  finish();
}

TEST_P(PagerTest, WhatWasWrittenStays) {
  start([](char* memory) {
    for (size_t page = 0; page < kPages; page += 3) {
      std::memset(memory + page * kPageSize, 'w', 8);
      if (holds(memory + page * kPageSize, content(page))) return 1;
    }
    ::usleep(300'000);  // the rest comes
    for (size_t page = 0; page < kPages; ++page) {
      uint64_t first, last;
      std::memcpy(&first, memory + page * kPageSize, 8);
      std::memcpy(&last, memory + (page + 1) * kPageSize - 8, 8);
      if (last != content(page) || (first == 0x7777777777777777) != (page % 3 == 0)) return 2;
    }
    return 0;
  });
  bring();
}

TEST_P(PagerTest, Children) {
  start([](char* memory) {
    for (int child = 0; child < 6; ++child) {
      // Each one sees the memory as it was when it was made, also what is written later.
      const size_t own = static_cast<size_t>(child) * 100;
      const pid_t pid = ::fork();
      if (pid < 0) return 3;
      if (pid == 0) {
        const pid_t grandchild = ::fork();
        if (grandchild < 0) ::_exit(4);
        if (!hold(memory + own * kPageSize, own, kPages)) ::_exit(1);
        if (grandchild == 0) ::_exit(0);
        int status = -1;
        ::waitpid(grandchild, &status, 0);
        ::_exit(status == 0 ? 0 : 2);
      }
      std::memset(memory + own * kPageSize, 'p', 100 * kPageSize);
    }
    int status = -1;
    for (int child = 0; child < 6; ++child)
      if (::wait(&status) < 0 || status != 0) return 1;
    return hold(memory + 600 * kPageSize, 600, kPages) ? 0 : 2;
  });
  bring();
}

/// Its children are more than a process may have files open by default.
class PagerWithFewFilesTest : public PagerTest {
 protected:
  void SetUp() override {
    ASSERT_EQ(0, ::getrlimit(RLIMIT_NOFILE, &before_));
    const rlimit few{64, before_.rlim_max};
    ASSERT_EQ(0, ::setrlimit(RLIMIT_NOFILE, &few));
    PagerTest::SetUp();
  }
  ~PagerWithFewFilesTest() override { ::setrlimit(RLIMIT_NOFILE, &before_); }
  rlimit before_{};
};

INSTANTIATE_TEST_SUITE_P(Push, PagerWithFewFilesTest, testing::Values(Before::kNothing, Before::kAll),
                         kBefore);

TEST_P(PagerWithFewFilesTest, ManyChildren) {
  start([](char* memory) {
    for (size_t child = 0; child < 300; ++child) {
      const pid_t pid = ::fork();
      if (pid < 0) return 3;
      if (pid == 0) ::_exit(holds(memory + child * kPageSize, content(child)) ? 0 : 1);
      int status = -1;
      if (::waitpid(pid, &status, 0) != pid || status != 0) return 1;
    }
    return hold(memory, 0, kPages) ? 0 : 2;
  });
  bring();
}

TEST_P(PagerTest, MemoryThatIsGivenBack) {
  start([](char* memory) {
    auto at = [&](size_t page) { return memory + page * kPageSize; };
    // Some of it has been touched before.
    if (!holds(at(105), content(105)) || !holds(at(1005), content(1005))) return 1;
    if (::madvise(at(100), 200 * kPageSize, MADV_DONTNEED) != 0) return 2;
    if (!zeros(at(100), 200)) return 3;
    if (!hold(at(0), 0, 100) || !hold(at(300), 300, 400)) return 4;
    if (::munmap(at(1000), 200 * kPageSize) != 0) return 5;
    if (::mmap(at(1000), 200 * kPageSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1,
               0) != at(1000))
      return 6;
    ::usleep(300'000);
    if (!zeros(at(1000), 200) || !zeros(at(100), 200)) return 7;
    return hold(at(300), 300, 1000) && hold(at(1200), 1200, kPages) ? 0 : 8;
  });
  bring();
}

TEST_P(PagerTest, MemoryThatMoves) {
  start([](char* memory) {
    auto at = [&](size_t page) { return memory + page * kPageSize; };
    // Somewhere else, and in there once more; then over what is missing itself.
    auto* moved = static_cast<char*>(::mremap(at(200), 100 * kPageSize, 150 * kPageSize, MREMAP_MAYMOVE));
    if (moved == MAP_FAILED || moved == at(200)) return 1;
    auto* again = static_cast<char*>(::mremap(moved + 20 * kPageSize, 20 * kPageSize, 20 * kPageSize,
                                              MREMAP_MAYMOVE | MREMAP_FIXED, at(600)));
    if (again != at(600)) return 2;
    if (!hold(moved, 200, 220) || !hold(moved + 40 * kPageSize, 240, 300)) return 3;
    if (!zeros(moved + 100 * kPageSize, 50)) return 4;  // as it has grown
    if (!hold(again, 220, 240) || !hold(at(580), 580, 600) || !hold(at(620), 620, 640)) return 5;
    return hold(at(0), 0, 200) && hold(at(300), 300, 600) && hold(at(620), 620, kPages) ? 0 : 6;
  });
  bring();
}

TEST_P(PagerTest, MemoryThatShrinksWhileItMoves) {
  start([](char* memory) {
    auto at = [&](size_t page) { return memory + page * kPageSize; };
    // What is behind its new place is missing, too, and stays what it is.
    if (::mremap(at(100), 200 * kPageSize, 50 * kPageSize, MREMAP_MAYMOVE | MREMAP_FIXED, at(1000)) !=
        at(1000))
      return 1;
    if (!hold(at(1000), 100, 150)) return 2;
    return hold(at(1050), 1050, kPages) && hold(at(0), 0, 100) && hold(at(300), 300, 1000) ? 0 : 3;
  });
  bring();
}

TEST_P(PagerTest, MemoryThatMovesAndLeavesItsPlaceBehind) {
  start([](char* memory) {
    auto at = [&](size_t page) { return memory + page * kPageSize; };
    constexpr int kDontUnmap = 4;  // MREMAP_DONTUNMAP, Linux 5.7
    auto* moved = static_cast<char*>(
        ::mremap(at(100), 100 * kPageSize, 100 * kPageSize, MREMAP_MAYMOVE | kDontUnmap, nullptr));
    if (moved == MAP_FAILED) return 1;
    return zeros(at(100), 100) && hold(moved, 100, 200) && hold(at(200), 200, kPages) ? 0 : 2;
  });
  bring();
}

TEST_P(PagerTest, MemoryThatMayNotBeRead) {
  start([](char* memory) {
    if (::mprotect(memory, 100 * kPageSize, PROT_NONE) != 0) return 1;
    ::usleep(300'000);
    if (::mprotect(memory, 100 * kPageSize, PROT_READ) != 0) return 1;
    return hold(memory, 0, kPages) ? 0 : 2;
  });
  bring();
}

TEST_P(PagerTest, ABoxThatEndsNeedsNoMemory) {
  start([](char* memory) { return holds(memory, content(0)) ? 0 : 1; });
  bring();
}

TEST_P(PagerTest, WhatIsUnmappedBeforeItHasComeIsTakenAllTheSame) {
  base::Pipe unmap = base::make_pipe();
  bool sent = false;
  start([&](char* memory) {
    char none = 0;
    return ::read(unmap.read.get(), &none, 1) == 1 && ::munmap(memory, kSize) == 0 ? 0 : 1;
  });
  const auto source = connect([&](Wire& to, PageSender& sender) {
    std::vector<PageRun> wanted;
    for (Message message; (message = to.recv(20s)).type == Frame::kWant;) {
      std::ranges::copy(parse_runs(message), std::back_inserter(wanted));
      EXPECT_EQ(1, ::write(unmap.write.get(), "", 1));
    }
    for (const PageRun& run : wanted) sender.send(run);  // more than fits into a pipe
    sent = true;
  });
  EXPECT_EQ("no error", error_of([&] { pager_->run(source->wire); }));
  EXPECT_EQ(1, ::write(unmap.write.get(), "", 1));
  finish();
  EXPECT_EQ("no error", error_of([&] { pager_->take_the_rest(source->wire); }));
  source->to_destination.read.close();
  source->source.join();
  EXPECT_TRUE(sent);
}

TEST_P(PagerTest, GoesOnOverAnotherConnection) {
  start([](char* memory) {
    for (size_t page = 0; page < kPages; page += 7)
      if (!holds(memory + page * kPageSize, content(page))) return 1;
    const pid_t child = ::fork();
    if (child < 0) return 2;
    if (!hold(memory, 0, kPages)) ::_exit(3);
    if (child == 0) ::_exit(0);
    int status = -1;
    return ::waitpid(child, &status, 0) == child && status == 0 ? 0 : 4;
  });
  for (uint64_t most : {1, 40'000, 1'000'000, 2'000'000}) {
    if (GetParam() == Before::kAll) break;  // the connection is not needed
    const auto source = connect(most);
    EXPECT_NE("no error", error_of([&] { pager_->run(source->wire); }));
    EXPECT_TRUE(pager_->restored());
    EXPECT_FALSE(pager_->whole());
    pager_->ask_again();
  }
  bring();
}

/// One more connection carries part of it, and may break, whatever was asked for on it.
TEST_P(PagerTest, OverLanesToo) {
  base::Pipe go = base::make_pipe();
  start([&](char* memory) {
    char byte;
    if (::read(go.read.get(), &byte, 1) != 1) return 2;
    return hold(memory, 0, kPages) ? 0 : 1;
  });
  struct Lane {
    base::Fd helper, socket;
    std::jthread source;
  };
  std::atomic<uint64_t> on_lanes = 0;
  std::vector<Lane> lanes;
  for (const uint64_t most : {UINT64_MAX, uint64_t{1}, uint64_t{500'000}}) {
    int pair[2];
    ASSERT_EQ(0, ::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair));
    Lane& lane = lanes.emplace_back(connect_in(work(), kLanesSocket), base::Fd(pair[0]), std::jthread());
    const base::Fd its(pair[1]);
    send_descriptor(lane.helper.get(), its.get());
    send_descriptor(lane.helper.get(), its.get());
    lane.source = std::jthread([&on_lanes, most, socket = lane.socket.get()] {
      try {
        Wire wire(socket, socket);
        wire.expect_json(Frame::kReady, 20s);
        PageSender sender(wire, {{7, ::getpid()}});
        uint64_t served = 0;
        serve_pages(wire, sender, 20s, [&](uint64_t bytes) {
          on_lanes += bytes;
          if ((served += bytes) >= most) throw base::error("the link is cut");
        });
      } catch (const base::Error&) {
      }
      ::shutdown(socket, SHUT_RDWR);
    });
  }
  const auto source = connect();
  EXPECT_EQ("no error", error_of([&] { pager_->run(source->wire); }));
  EXPECT_TRUE(pager_->whole());
  base::write_full(go.write.get(), "x", "pipe");
  finish();
  if (GetParam() == Before::kNothing) {
    EXPECT_GT(on_lanes, 0U);
  }
}

TEST_P(PagerTest, MemoryThatNobodyAskedFor) {
  start([](char*) {
    ::pause();
    return 0;
  });
  base::Pipe to_source = base::make_pipe(), to_destination = base::make_pipe();
  Wire wire(to_destination.read.get(), to_source.write.get());
  std::jthread source([&] {
    Wire to(to_source.read.get(), to_destination.write.get());
    PageSender none(to, {});
    Connection::rounds(to, none, {}, {});
    const Message want = to.recv(10s);
    std::vector<PageRun> runs = parse_runs(want);
    // The one that was asked for, under another address.
    base::Pipe there = base::make_pipe(), back = base::make_pipe();
    Wire asks(back.read.get(), there.write.get());
    runs.front().pages = 1;
    send_runs(asks, Frame::kWant, std::span(runs).first(1));
    asks.send(Frame::kWhole);
    Wire serves(there.read.get(), back.write.get());
    PageSender sender(serves, {{7, ::getpid()}});
    serve_pages(serves, sender, 5s, {});
    to.send(Frame::kPages, asks.recv(5s).bytes);
  });
  EXPECT_EQ(std::format("the other node sent memory that was not asked for: 1 pages at {:#x}",
                        reinterpret_cast<uint64_t>(memory_)),
            error_of([&] { pager_->run(wire); }));
}

TEST_P(PagerTest, ARestoreThatFails) {
  box_ = ::fork();
  if (box_ == 0) {
    const base::Fd to(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    (work() + "/" + box::kPagerSocket).copy(address.sun_path, sizeof address.sun_path - 1);
    ::_exit(::connect(to.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address));
  }
  const auto source = connect();
  Connection& connection = *source;
  EXPECT_EQ("CRIU did not restore the box", error_of([&] { pager_->run(connection.wire); }));
  EXPECT_FALSE(pager_->restored());
  pager_.reset();  // and the guard ends what there is of it
  for (int i = 0; i < 500 && base::read_file(work() + "/cgroup.kill").empty(); ++i)
    std::this_thread::sleep_for(10ms);
  EXPECT_EQ("1", base::read_file(work() + "/cgroup.kill"));
}

}  // namespace
}  // namespace migrate
