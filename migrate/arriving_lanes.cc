#include "migrate/arriving_lanes.h"

#include <nlohmann/json.hpp>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <utility>

#include "base/error.h"
#include "base/log.h"
#include "box/node.h"
#include "migrate/arrival.h"
#include "migrate/guard.h"
#include "migrate/lanes.h"
#include "migrate/local_socket.h"

namespace migrate {
namespace {

using namespace std::chrono_literals;
using base::error;
using Clock = std::chrono::steady_clock;

// The first connection says that a round begins about when a lane does.
constexpr auto kUntilBegun = 1min;
// With something asked for, nothing for so long means that it is lost.
constexpr auto kSilence = 15s;

base::Fd make_event() {
  base::Fd fd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!fd) throw base::sys_error("cannot make an eventfd");
  return fd;
}
void signal(const base::Fd& event) { ::eventfd_write(event.get(), 1); }
void clear(const base::Fd& event) {
  eventfd_t count = 0;
  ::eventfd_read(event.get(), &count);
}

}  // namespace

ArrivingLanes::ArrivingLanes(const std::string& work, Store& kept)
    : kept_(kept), listener_(listen_in(work, kLanesSocket)), arrivals_(make_event()) {}

ArrivingLanes::~ArrivingLanes() { close(); }

void ArrivingLanes::close() {
  for (auto& lane : lanes_) stop(lane);
  lanes_.clear();
}

void ArrivingLanes::stop(Lane& lane) {
  lane.stop = true;
  signal(lane.wake);
  {
    const std::unique_lock lock(fence_);  // whoever waits there looks again
  }
  begun_.notify_all();
}

void ArrivingLanes::accept() {
  base::Fd helper(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
  if (!helper || lanes_.size() + 1 >= kMostStreams) return;  // it sees its socket close
  try {
    base::Fd in = receive_descriptor(helper.get()), out = receive_descriptor(helper.get());
    Lane& lane = lanes_.emplace_back();
    lane.helper = std::move(helper);
    lane.in = std::move(in);
    lane.out = std::move(out);
    lane.wake = make_event();
    lane.heard = Clock::now();
    lane.thread = std::jthread([this, &lane] { work(lane); });
  } catch (const base::Error& e) {
    base::debug("{}", e.render());
  }
}

void ArrivingLanes::begin_round(const std::function<void()>& change) {
  {
    const std::unique_lock lock(fence_);
    ++round_;
    change();
  }
  begun_.notify_all();
}

void ArrivingLanes::end_rounds() {
  const std::unique_lock lock(fence_);
  round_ = UINT64_MAX;
}

void ArrivingLanes::take(const std::function<void(const Pages&)>& give) {
  clear(arrivals_);
  const auto now = Clock::now();
  for (auto lane = lanes_.begin(); lane != lanes_.end();) {
    std::vector<Pages> arrived;
    bool ended = false;
    {
      const std::lock_guard lock(mutex_);
      arrived = std::exchange(lane->arrived, {});
      ended = lane->ended;
    }
    if (lane->asked.bytes() == 0 || !arrived.empty()) lane->heard = now;
    try {
      for (const Pages& pages : arrived) {
        lane->asked.require(pages.run);
        lane->asked.done(pages.run);
        give(pages);
      }
      if (now - lane->heard > kSilence) throw error("it was silent");
    } catch (const base::Error& e) {
      base::warn("one of the connections for the box's memory is lost: {}", e.message());
      ended = true;
    }
    if (!ended) {
      ++lane;
      continue;
    }
    stop(*lane);
    lane = lanes_.erase(lane);
  }
}

Asked* ArrivingLanes::room(uint64_t most) {
  for (auto& lane : lanes_)
    if (lane.asked.bytes() < most) return &lane.asked;
  return nullptr;
}

void ArrivingLanes::send_wants() {
  for (auto& lane : lanes_) {
    const auto runs = lane.asked.take();
    if (runs.empty()) continue;
    {
      const std::lock_guard lock(mutex_);
      lane.to_ask.insert(lane.to_ask.end(), runs.begin(), runs.end());
      for (const PageRun& run : runs) lane.due += run.bytes();
    }
    signal(lane.wake);
  }
}

uint64_t ArrivingLanes::asked_bytes() const {
  uint64_t bytes = 0;
  for (const auto& lane : lanes_) bytes += lane.asked.bytes();
  return bytes;
}

// --- in a lane's thread

void ArrivingLanes::work(Lane& lane) {
  try {
    Wire wire(lane.in.get(), lane.out.get());
    wire.on_wait([&] {
      if (lane.stop) throw error("it is not needed any more");
    });
    try {
      serve(lane, wire);
    } catch (const base::Error& e) {
      base::debug("{}", e.render());
      if (!lane.stop) wire.send_failed(e.message(), e.hint());
    }
  } catch (const std::exception& e) {
    base::debug("{}", e.what());
  }
  {
    const std::lock_guard lock(mutex_);
    lane.ended = true;
  }
  signal(arrivals_);
}

void ArrivingLanes::serve(Lane& lane, Wire& wire) {
  wire.send_json(Frame::kReady, nlohmann::json::object());
  uint64_t round = 0;  // in which it is
  for (;;) {
    pollfd waits[] = {
        {wire.input(), POLLIN, 0}, {lane.wake.get(), POLLIN, 0}, {lane.helper.get(), POLLIN, 0}};
    if (::poll(waits, std::size(waits), -1) < 0 && errno != EINTR)
      throw base::sys_error("cannot wait for memory of the box");
    if (lane.stop) return;
    if (waits[1].revents != 0) {
      clear(lane.wake);
      std::vector<PageRun> runs;
      {
        const std::lock_guard lock(mutex_);
        runs = std::exchange(lane.to_ask, {});
      }
      if (!runs.empty()) send_runs(wire, Frame::kWant, runs);
    }
    if (waits[0].revents == 0) {
      if (waits[2].revents != 0) throw error("the process that had the connection has ended");
      continue;
    }
    const Message message = wire.recv(1min, "memory of the box");
    if (message.type == Frame::kRound && round == 0) {
      join_round(lane, round = parse_json(message).at("number").get<uint64_t>());
    } else if (message.type == Frame::kPages && round > 0) {
      keep(round, parse_pages(message));
    } else if (message.type == Frame::kPages) {
      arrived(lane, parse_pages(message));
    } else if (message.type == Frame::kDataEnd && round > 0) {
      round = 0;
      wire.send_json(Frame::kRoundDone, nlohmann::json::object());
    } else {
      throw error("the other node sent \"{}\" instead of memory", *frame_name(message.type));
    }
  }
}

/// Returns when the round has begun.
void ArrivingLanes::join_round(Lane& lane, uint64_t number) {
  std::shared_lock lock(fence_);
  begun_.wait_for(lock, kUntilBegun, [&] { return round_ >= number || lane.stop; });
  if (number == 0 || round_ != number)
    throw error("the other node sent a part of round {} of memory, which is not due", number);
}

void ArrivingLanes::keep(uint64_t round, const Pages& pages) {
  const std::shared_lock lock(fence_);
  if (round != round_) throw error("the other node sent memory of round {} when that was over", round);
  kept_.put(pages);
}

void ArrivingLanes::arrived(Lane& lane, Pages pages) {
  {
    const std::lock_guard lock(mutex_);
    if (pages.run.bytes() > lane.due) throw error("the other node sent memory that was not asked for");
    lane.due -= pages.run.bytes();
    lane.arrived.push_back(std::move(pages));
  }
  signal(arrivals_);
}

// --- in another process

void join_memory(const base::Context& context, const nlohmann::json& hello, int in, int out) {
  const std::string name = hello.value("box", ""), id = hello.value("id", "");
  box::check_name(name);
  if (!find_arrival(context, name, id)) throw error("no box {} is on its way here by this move", name);
  const base::Fd pager = connect_in(box::arriving_paths_of(context, name).run, kLanesSocket);
  send_descriptor(pager.get(), in);
  send_descriptor(pager.get(), out);
  char none = 0;
  while (::read(pager.get(), &none, 1) < 0 && errno == EINTR) {
  }
}

}  // namespace migrate
