#include "migrate/memory.h"

#include <poll.h>

#include <algorithm>
#include <future>
#include <span>
#include <thread>
#include <utility>

#include "base/error.h"
#include "base/log.h"
#include "base/pause.h"
#include "box/box.h"
#include "box/cgroup.h"
#include "box/ownership.h"
#include "migrate/arrival.h"
#include "migrate/departure.h"
#include "migrate/pager.h"
#include "migrate/pages.h"
#include "migrate/preflight.h"
#include "migrate/report.h"

namespace migrate {
namespace {

using namespace std::chrono_literals;
using Json = nlohmann::json;

// A dump takes place between two messages, and the destination's disk may be slow.
constexpr auto kPatience = 5min;
// A frozen box waits for the parts of the last round that go over lanes.
constexpr auto kLastPart = 10s;
// How long a box may wait for memory that does not come, before it is better started from its disk.
constexpr auto kLost = 60s;
// When nothing has gone on for so long, the operator is told.
constexpr auto kStall = 15s;
// What is kept there is put in place in 3 s a GiB (12 µs a page), or more where the box is busy.
constexpr auto kPlacingEach = 10s;
constexpr size_t kMostRuns = kMaxFrame / 16;  // of one frame

Json about(const std::string& id, const std::string& box) {
  return {{"protocol", kProtocol}, {"id", id}, {"box", box}};
}

/// Who receives the box has told nobody that it is here. Once he has died, and nobody holds the box's lock,
/// it is dropped: whoever brings its memory ends, and the guard ends what was restored.
bool is_before_prepared(const box::Move& move) { return move.step == box::MoveStep::kArriving; }

/// The connection broke. True: there is another one, in `transport` and `wire`. False: the move was dropped.
/// Throws when the memory is lost: so says the other node, or has not answered for so long.
bool connect_again(const base::Context& context, const std::string& name, const std::string& id,
                   std::optional<Transport>& transport, std::optional<Wire>& wire) {
  for (const auto deadline = std::chrono::steady_clock::now() + kLost;
       std::chrono::steady_clock::now() < deadline; std::this_thread::sleep_for(1s)) {
    const auto move = find_arrival(context, name, id);
    if (!move || (is_before_prepared(*move) && box::try_lock_box(context, name))) return false;
    try {
      wire.reset();
      transport.emplace(move->rsh.empty() ? rsh_words("") : move->rsh, move->peer,
                        std::vector<std::string>{"drover-node", "receive"});
      wire.emplace(transport->in(), transport->out(), 10s);
      wire->send_json(Frame::kFetch, about(id, name));
      if (wire->expect_json(Frame::kReady, 20s).value("memory", true)) return true;
    } catch (const base::Error& e) {
      base::debug("{}", e.render());
      continue;
    }
    throw base::error("the memory of box {} is not on the other node any more", name);
  }
  throw base::error("memory of box {} is on the other node, which does not answer", name);
}

/// Waits for the process that takes the box over, and writes down that everything is here; where that one was
/// killed half-way, does its work. Nothing: the move has ended otherwise. As long as nobody knows whose the
/// box is, it waits: the memory would be lost with it. So it does while a box that runs cannot be recorded,
/// as on a full disk. Throws when it is nobody's here.
std::optional<box::Lock> record_whole(const base::Context& context, const std::string& name,
                                      const std::string& id) {
  bool failed = false;
  for (const auto start = std::chrono::steady_clock::now();; std::this_thread::sleep_for(
           !failed && std::chrono::steady_clock::now() - start < kPatience ? 5ms : 500ms)) {
    auto lock = box::try_lock_box(context, name);
    if (!lock) continue;
    auto move = find_arrival(context, name, id);
    if (!move) return std::nullopt;
    if (is_before_prepared(*move)) throw base::error("box {} did not arrive here", name);
    if (move->step != box::MoveStep::kMine) continue;
    try {
      if (base::exists(box::arriving_paths_of(context, name).dir) &&
          take_over(context, name) != Taken::kMemoryFollows)
        return std::nullopt;  // its processes have ended, and it was started from its disk
      move->advance(box::paths_of(context, name), box::MoveStep::kWhole);
    } catch (const base::Error& e) {
      const box::Cgroup group(box::paths_of(context, name).cgroup);
      if (!box::find_init(group) || group.frozen()) throw;
      if (!std::exchange(failed, true))
        base::warn("{}: box {} runs with all its memory, and this is tried again until it is recorded here",
                   e.message(), name);
      continue;
    }
    base::pause_point("destination.whole");
    return lock;
  }
}

/// Everything is here. The box runs before that is on record, and waits for us as long as we have its
/// userfaultfds.
void take_whole(const base::Context& context, const std::string& name, const std::string& id, Pager& pager) {
  auto recorded = std::async(std::launch::async, [&] { return record_whole(context, name, id); });
  while (recorded.wait_for(0ms) != std::future_status::ready) pager.attend(5ms);
  const auto lock = recorded.get();
  pager.finish();
  if (lock) box::end_move(box::paths_of(context, name));
}

/// What went out with a lane that is lost, as if it had been written again.
DirtyMemory::Written written_again(std::vector<PageRun> lost) {
  std::ranges::sort(lost, {}, [](const PageRun& run) { return std::pair(run.pid, run.address); });
  DirtyMemory::Written written;
  for (const PageRun& run : lost) written.runs.push_back({run.pid, run.address, run.address + run.bytes()});
  return written;
}

}  // namespace

std::vector<PageRun> runs_of(const DirtyMemory::Written& written) {
  std::vector<PageRun> runs;
  for (const auto& run : written.runs) append_runs(runs, run.pid, run.begin, run.end);
  return runs;
}

MemoryServer::MemoryServer(const std::vector<std::string>& rsh, const std::string& node,
                           const std::string& id, const std::string& box, uint64_t bytes, unsigned streams)
    : node_(node),
      box_(box),
      placing_(kPlacingEach * static_cast<int>(bytes >> 30)),
      transport_(rsh, node, {"drover-node", "receive"}),
      wire_(std::make_unique<Wire>(transport_.in(), transport_.out(), 60s)),
      lanes_(rsh, node, about(id, box), streams) {
  wire_->on_wait([this] {
    if (stop_) throw base::error("the move has failed");
    if (!done_.valid()) base::check_interrupt();  // the thread has no part in it
  });
  wire_->send_json(Frame::kMemory, about(id, box));
  wire_->expect_json(Frame::kReady, 30s);
  lanes_.open();
}

MemoryServer::~MemoryServer() { close(); }

void MemoryServer::close() noexcept {
  stop_ = true;
  if (done_.valid()) done_.wait();
  lanes_.close();
}

void MemoryServer::begin_round(const DirtyMemory::Written& written, bool final, bool at_once) {
  auto forget = written.unknown;
  forget.insert(forget.end(), written.renewed.begin(), written.renewed.end());
  wire_->send_json(Frame::kRound, {{"final", final}, {"at_once", at_once}, {"forget", forget}});
}

void MemoryServer::end_round() {
  wire_->send(Frame::kDataEnd);
  wire_->expect_json(Frame::kRoundDone, kPatience);
}

Sent MemoryServer::push(const std::map<pid_t, pid_t>& processes, DirtyMemory::Written& written,
                        const std::function<void(uint64_t)>& sent) {
  const auto start = std::chrono::steady_clock::now();
  const uint64_t before = wire_bytes();
  const auto share = std::make_shared<Share>(runs_of(written));
  begin_round(written, false, false);
  lanes_.push(++round_, processes, share);
  PageSender sender(*wire_, processes);
  while (const PageRun* run = share->next()) {
    base::check_interrupt();
    lanes_.grow(meter_.look(wire_->level().busy(), transport_.pid()));
    share->sent += sender.push(*run);
    sent(share->sent);
  }
  end_round();
  written = written_again(lanes_.end_round(base::check_interrupt, kPatience));
  return {share->sent, wire_bytes() - before, ms_since(start)};
}

void MemoryServer::serve(std::map<pid_t, pid_t> processes, DirtyMemory::Written written, bool push_rest) {
  done_ = std::async(std::launch::async, [this, processes = std::move(processes),
                                          written = std::move(written), push_rest] {
    PageSender sender(*wire_, processes);
    begin_round(written, true, push_rest);
    const auto runs = runs_of(written);
    if (push_rest) {
      push_last(sender, processes, runs);
    } else {
      for (size_t at = 0; at < runs.size(); at += kMostRuns)
        send_runs(*wire_, Frame::kStale, std::span(runs).subspan(at, std::min(kMostRuns, runs.size() - at)));
    }
    end_round();
    lanes_.serve(processes, [this](uint64_t bytes) { served_ += bytes; });
    reach(Stage::kFinal);
    Message last = serve_pages(*wire_, sender, kPatience, [this](uint64_t bytes) { served_ += bytes; });
    if (last.type == Frame::kHere) {
      reach(Stage::kHere);
      // The box gets the rest of what is there already.
      last = wire_->recv(kPatience + placing_, "\"whole\"");
    }
    if (last.type != Frame::kWhole)
      throw base::error("{} sent \"{}\" where it was to ask for memory", node_, *frame_name(last.type));
  });
}

/// Of the frozen box: what is sent twice is the same both times. So what was lost with a lane is sent at
/// once.
void MemoryServer::push_last(PageSender& sender, const std::map<pid_t, pid_t>& processes,
                             std::vector<PageRun> runs) {
  const auto share = std::make_shared<Share>(std::move(runs));
  lanes_.push(++round_, processes, share);
  while (const PageRun* run = share->next()) share->sent += sender.push(*run);
  const auto check = [this] {
    if (stop_) throw base::error("the move has failed");
  };
  for (const PageRun& run : lanes_.end_round(check, kLastPart)) share->sent += sender.push(run);
  served_ += share->sent;
}

void MemoryServer::reach(Stage stage) {
  const std::lock_guard lock(mutex_);
  stage_ = stage;
  reached_.notify_all();
}

void MemoryServer::wait(bool everything, std::chrono::steady_clock::time_point deadline) {
  std::unique_lock lock(mutex_);
  while (stage_ < (everything ? Stage::kHere : Stage::kFinal)) {
    base::check_interrupt();
    require_connection();
    if (std::chrono::steady_clock::now() > deadline)
      throw base::error("the other node does not say that it has the box's memory");
    reached_.wait_for(lock, 100ms);
  }
}

void MemoryServer::require_connection() {
  pollfd state{transport_.in(), POLLIN, 0};
  ::poll(&state, 1, 0);
  if (done_.valid()) {
    if (done_.wait_for(0s) == std::future_status::ready)
      done_.get();                                        // throws what it ended by
    else if ((state.revents & (POLLHUP | POLLERR)) == 0)  // which the thread may not have seen yet
      return;
  } else if (state.revents == 0) {
    return;
  }
  throw base::error("the other node closed the connection for the box's memory");
}

/// As `since` nothing was served.
bool MemoryServer::tell_stall(std::chrono::steady_clock::time_point since) {
  const auto silent = std::chrono::steady_clock::now() - since;
  const std::unique_lock lock(mutex_);
  const bool here = stage_ == Stage::kHere;
  if (silent < kStall + (here ? placing_ : 0ms)) return false;
  if (here)
    base::warn("{} has had all memory of box {} for {} s, and has not put it in place", node_, box_,
               silent / 1s);
  else
    base::warn("{} has taken no memory of box {} for {} s: what in the box needs some of it waits", node_,
               box_, silent / 1s);
  return true;
}

bool MemoryServer::fetched_otherwise() {
  if (!done_.valid() || done_.wait_for(0s) != std::future_status::ready) return false;
  const std::lock_guard lock(mutex_);
  return stage_ < Stage::kHere;
}

uint64_t MemoryServer::finish(base::Progress& progress) {
  uint64_t before = served_;
  auto since = std::chrono::steady_clock::now();
  bool told = false;
  while (done_.wait_for(100ms) == std::future_status::timeout) {
    const uint64_t served = served_;
    progress.at(served);
    if (std::exchange(before, served) != served) {
      since = std::chrono::steady_clock::now();
      told = false;
    } else {
      told = told || tell_stall(since);
    }
    lanes_.grow(meter_.look(wire_->level().busy(), transport_.pid()));
  }
  try {
    done_.get();
  } catch (const base::Error& lost) {
    throw base::error("box {} runs on {}, but the connection for its memory broke: {}", box_, node_,
                      lost.message())
        .hint(
            "it fetches the rest by itself: leave this node up, and run `drover-node recover` here in a "
            "minute");
  }
  return served_;
}

void bring_memory(const base::Context& context, Wire& first, const Json& hello) {
  const std::string name = hello.value("box", ""), id = hello.value("id", "");
  box::check_name(name);
  const box::Paths paths = box::arriving_paths_of(context, name);
  const auto move = find_arrival(context, name, id);
  if (!move || !move->lazy || move->step != box::MoveStep::kArriving)
    throw base::error("no box {} is on its way here by this move", name);
  const PagerLock at_work(paths);
  Pager pager(paths.run, paths.images, paths.cgroup);
  first.send_json(Frame::kReady, Json::object());

  std::optional<Transport> transport;
  std::optional<Wire> next;
  Wire* wire = &first;
  while (!pager.whole()) {
    try {
      pager.run(*wire);
      continue;
    } catch (const base::Error& lost) {
      if (!pager.restored()) throw;  // the guard ends what was restored, and the source goes on
      if (pager.here()) continue;
      base::warn("{}: box {} still lacks memory", lost.message(), name);
    }
    // Thrown on, it ends this process: the guard kills the box, and `recover` starts it from its disk.
    if (!connect_again(context, name, id, transport, next)) return;
    wire = &*next;
    pager.ask_again();
  }
  take_whole(context, name, id, pager);
  base::pause_point("destination.released");
  try {
    pager.take_the_rest(*wire);
    wire->send_json(Frame::kWhole, Json::object());
  } catch (const base::Error& lost) {
    base::warn("{}: {} will ask", lost.message(), move->peer);
  }
}

void answer_fetch(const base::Context& context, Wire& wire, const Json& hello) {
  const std::string name = hello.value("box", ""), id = hello.value("id", "");
  const box::Config config = box::load_config(context, name);
  const box::Lock lock = box::lock_box(context, name);
  const box::Paths paths = box::paths_of(context, name);
  const auto move = box::find_move(paths);
  if (!move || move->id != id || move->step != box::MoveStep::kGiven)
    throw base::error("box {} was not given away by this move", name);
  const box::Cgroup group(paths.cgroup);
  const auto processes = box::processes_of(group);
  const bool here = !processes.empty() && group.frozen();
  wire.send_json(Frame::kReady, {{"memory", here}});
  if (!here) return;
  PageSender sender(wire, processes);
  Message last = serve_pages(wire, sender, 1min, {});
  if (last.type == Frame::kHere) last = wire.recv(kPatience, "\"whole\"");
  if (last.type != Frame::kWhole)
    throw base::error("the other node sent \"{}\" where it was to ask for memory", *frame_name(last.type));
  forget_box(context, config, move->epoch + 1);
}

}  // namespace migrate
