#include "migrate/lanes.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <thread>
#include <utility>

#include "base/context.h"
#include "base/error.h"
#include "base/log.h"

namespace migrate {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

// The destination keeps what comes in memory; it waits for no disk.
constexpr auto kPatience = 1min;
// A dump takes place between the last round and the first question.
constexpr auto kUntilAsked = 5min;
}  // namespace

const PageRun* Share::next() {
  const size_t at = taken++;
  return at < runs.size() ? &runs[at] : nullptr;
}

Lane::Lane(const std::vector<std::string>& rsh, const std::string& node)
    : transport(rsh, node, {"drover-node", "receive"}), wire(transport.in(), transport.out(), kPatience) {
  wire.on_wait([this] {
    if (stop) throw base::error("it was too slow, or is not needed any more");
  });
}

Lanes::Lanes(std::vector<std::string> rsh, std::string node, const nlohmann::json& hello, unsigned fixed)
    : rsh_(std::move(rsh)),
      node_(std::move(node)),
      hello_(hello.dump()),
      fixed_(fixed > 0),
      most_((fixed_ ? fixed : kMostAutoStreams) - 1) {}

void Lanes::open() {
  if (!fixed_) return;
  while (lanes_.size() < most_) add();
  for (auto& lane : lanes_)
    while (lane.ready.wait_for(100ms) != std::future_status::ready) base::check_interrupt();
}

Lanes::~Lanes() { close(); }

void Lanes::close() noexcept {
  for (auto& lane : lanes_) lane.stop = true;
  for (auto& lane : lanes_) dropped_bytes_ += lane.wire.wire_bytes();
  lanes_.clear();  // waits for their threads
}

/// In the thread whose end would end the transport with it.
void Lanes::add() {
  Lane& lane = lanes_.emplace_back(rsh_, node_);
  lane.ready = std::async(std::launch::async, [this, &lane] {
    lane.wire.send(Frame::kLane, std::as_bytes(std::span(hello_)));
    lane.wire.expect_json(Frame::kReady, 30s);
  });
}

std::list<Lane>::iterator Lanes::drop(std::list<Lane>::iterator lane, const std::string& why) {
  base::warn("one of the connections for the box's memory to {} is lost: {}; the others go on", node_, why);
  most_ = 0;  // whatever is the matter with it, it is better not to try again
  lane->stop = true;
  dropped_bytes_ += lane->wire.wire_bytes();
  return lanes_.erase(lane);
}

/// Lets those begin that the destination has taken by now.
void Lanes::start_ready() {
  for (auto lane = lanes_.begin(); lane != lanes_.end();) {
    if (lane->ready.valid() && lane->ready.wait_for(0s) == std::future_status::ready) {
      try {
        lane->ready.get();
      } catch (const base::Error& e) {
        lane = drop(lane, e.message());
        continue;
      }
    }
    if (work_ && !lane->ready.valid() && !lane->at_work.valid()) {
      lane->at_work = std::async(std::launch::async, [work = work_, &at = *lane] { work(at); });
      if (!std::exchange(lane->begun, true)) ++begun_;
    }
    ++lane;
  }
}

void Lanes::begin(Work work) {
  work_ = std::move(work);
  start_ready();
}

void Lanes::push(unsigned number, const std::map<pid_t, pid_t>& processes,
                 const std::shared_ptr<Share>& share) {
  begin([number, processes, share](Lane& lane) {
    lane.wire.send_json(Frame::kRound, {{"number", number}});
    PageSender sender(lane.wire, processes);
    while (const PageRun* run = share->next()) {
      if (lane.stop) return;
      lane.taken.push_back(*run);
      share->sent += sender.push(*run);
    }
    lane.wire.send(Frame::kDataEnd);
    lane.wire.expect_json(Frame::kRoundDone, kPatience);
    lane.taken.clear();
  });
}

std::vector<PageRun> Lanes::end_round(const std::function<void()>& check,
                                      std::chrono::milliseconds patience) {
  work_ = {};
  const auto deadline = Clock::now() + patience;
  std::vector<PageRun> lost;
  for (auto lane = lanes_.begin(); lane != lanes_.end();) {
    try {
      while (lane->at_work.valid() && lane->at_work.wait_for(50ms) != std::future_status::ready) {
        check();
        if (Clock::now() > deadline) lane->stop = true;
      }
      if (lane->at_work.valid()) lane->at_work.get();
      ++lane;
    } catch (const base::Error& e) {
      lost.insert(lost.end(), lane->taken.begin(), lane->taken.end());
      lane = drop(lane, e.message());
    }
  }
  return lost;
}

void Lanes::serve(const std::map<pid_t, pid_t>& processes, std::function<void(uint64_t)> served) {
  begin([processes, served = std::move(served)](Lane& lane) {
    PageSender sender(lane.wire, processes);
    try {
      serve_pages(lane.wire, sender, kUntilAsked, served);
    } catch (const base::Error& e) {
      // The destination asks for the rest elsewhere, or has it all.
      base::debug("{}", e.render());
    }
  });
}

void Lanes::grow(const std::optional<Load>& load) {
  start_ready();
  if (!load || fixed_ || lanes_.size() >= most_ || !another_lane_pays(*load)) return;
  if (!lanes_.empty() && lanes_.back().ready.valid()) return;  // one after the other
  base::debug(
      "one more connection for the box's memory: packing {:.2f}, cipher {:.2f}, idle {:.2f}, on the way "
      "{:.0f}",
      load->packing, load->cipher, load->idle, load->on_the_way);
  add();
}

uint64_t Lanes::wire_bytes() const {
  uint64_t bytes = dropped_bytes_;
  for (const auto& lane : lanes_) bytes += lane.wire.wire_bytes();
  return bytes;
}

}  // namespace migrate
