#include "migrate/pager.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <nlohmann/json.hpp>
#include <poll.h>
#include <sched.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "base/log.h"
#include "box/restore.h"
#include "migrate/guard.h"
#include "migrate/local_socket.h"

namespace migrate {
namespace {

using namespace std::chrono_literals;
using base::error;

// What CRIU says instead of one more pid when all tasks are restored (criu/include/uffd.h).
constexpr uint32_t kRestoreFinished = 0x52535446;
// A page fault brings what lies around it, too: so far aligned.
constexpr uint64_t kAround = 16 * kPageSize;
// Asked for ahead of need and not here yet, at most: what a page fault has to wait behind.
constexpr uint64_t kAheadBusy = 256 << 10, kAheadIdle = 4 << 20;
constexpr auto kBusy = 20ms;
// Given ahead of need at once: as long as a page fault may have to wait, at 12 µs a page.
constexpr uint64_t kGiveAtOnce = 64 << 10;
// So long after its restore the box has the connection and the processors for itself: it is let go in
// this time, and touches what it needs first.
constexpr auto kHeadStart = 100ms;
// And so long after it, whenever it has waited for a page within that time. On a node with one processor free
// it would otherwise get that back only when we have used up our turn.
constexpr auto kFirstSteps = 1s;
constexpr auto kStep = 5ms;
// With something asked for, nothing for so long means that the source is gone; and so does a message, of 256
// KiB, that takes so long.
constexpr auto kSilence = 15s;

}  // namespace

Pager::Pager(const std::string& work, std::string images, const std::string& cgroup)
    : images_(std::move(images)), lanes_(work, kept_), listener_(listen_in(work, box::kPagerSocket)) {
  raise_file_limit();
  auto [ours, process] = start_guard(cgroup);
  guard_ = std::move(ours);
  guard_process_ = std::move(process);
}

Pager::~Pager() {
  // Where memory is still missing, the guard sees its socket close, and takes the box with it.
  if (guard_process_) guard_process_->release();
}

bool Pager::whole() const {
  return restored_at_ && std::ranges::all_of(spaces_, [](const Space& s) { return s.missing.empty(); });
}

void Pager::attend(std::chrono::milliseconds time) {
  std::vector<pollfd> waits;
  for (const auto& space : spaces_) waits.push_back({space.fault.get(), POLLIN, 0});
  ::poll(waits.data(), waits.size(), static_cast<int>(time.count()));
  drain_all();
  std::erase_if(spaces_, [](const Space& space) { return !space.fault; });
}

void Pager::finish() {
  release_guard(guard_);
  guard_.close();
  spaces_.clear();
  if (guard_process_) guard_process_->wait(5s);
  guard_process_.reset();
  lanes_.close();
}

void Pager::take_the_rest(Wire& wire) {
  for (const PageRun& run : asked_.take()) asked_.done(run);  // it was not told of these
  while (asked_.bytes() > 0) take(wire, wire.recv(kSilence, "memory of the box"));
}

bool Pager::here() const { return final_ && restored_at_ && std::ranges::all_of(spaces_, &Space::asked_all); }

void Pager::ask_again() {
  lanes_.close();
  asked_.forget();
  for (auto& space : spaces_) {
    space.asked = 0;
    // A fault is told once. Whoever waits is woken, faults again, and is served first.
    for (uint64_t at = 0; auto piece = space.missing.first_in(at, UINT64_MAX);) {
      space.wake(piece->now, piece->end - piece->begin);
      at = piece->end;
    }
  }
}

void Pager::run(Wire& wire) {
  last_data_ = Clock::now();
  while (!whole()) {
    // Before it is known what is right, no instruction of the box may have run.
    if (final_) drain_all();
    std::erase_if(spaces_, [](const Space& space) { return !space.fault; });
    lanes_.take([this](const Pages& pages) { give(pages); });
    bool giving = false;
    if (final_ && restored_at_) {
      ask_ahead();
      giving = give_ahead();
    }
    if (const auto runs = asked_.take(); !runs.empty()) send_runs(wire, Frame::kWant, runs);
    lanes_.send_wants();
    if (here()) tell_here(wire);
    std::vector<pollfd> waits = {{told_here_ ? -1 : wire.input(), POLLIN, 0},
                                 {restorer_.get(), POLLIN, 0},
                                 {listener_.get(), POLLIN, 0},
                                 {lanes_.listener(), POLLIN, 0},
                                 {lanes_.arrivals(), POLLIN, 0}};
    for (const auto& space : spaces_) waits.push_back({final_ ? space.fault.get() : -1, POLLIN, 0});
    // The last steps of CRIU and the first of the box go first on this processor.
    if (giving && Clock::now() - *restored_at_ < kFirstSteps) ::sched_yield();
    const int timeout = giving ? 0 : restored_at_ && box_goes_first() ? 5 : 500;
    if (::poll(waits.data(), waits.size(), timeout) < 0 && errno != EINTR)
      throw base::sys_error("cannot wait for page faults");
    if (waits[1].revents != 0) take_space();
    if (waits[3].revents != 0) lanes_.accept();
    if (waits[2].revents != 0) {
      restorer_ = base::Fd(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
      listener_.close();
      lazy_ = read_lazy_pages(images_);  // all images are here by now
    }
    if (waits[0].revents != 0) {
      last_data_ = Clock::now();
      take(wire, wire.recv(kSilence, "memory of the box"));
    } else if (asked_.bytes() == 0) {
      last_data_ = Clock::now();
    } else if (Clock::now() - last_data_ > kSilence) {
      throw error("the other node was silent while we waited for memory of the box");
    }
  }
  tell_here(wire);
}

void Pager::tell_here(Wire& wire) {
  if (!std::exchange(told_here_, true)) wire.send_json(Frame::kHere, nlohmann::json::object());
}

bool Pager::past_head_start() const { return restored_at_ && Clock::now() - *restored_at_ > kHeadStart; }

bool Pager::box_goes_first() const {
  if (at_once_) return false;
  const auto now = Clock::now();
  return !past_head_start() || (now - *restored_at_ < kFirstSteps && now - last_fault_ < kStep);
}

// --- what the source sends

void Pager::take(Wire& wire, const Message& message) {
  switch (message.type) {
    case Frame::kRound:
      return begin_round(parse_json(message));
    case Frame::kDataEnd:
      return end_round(wire);
    case Frame::kStale:
      for (const PageRun& run : parse_runs(message))
        kept_.drop(run.pid, run.address, run.address + run.bytes());
      return;
    case Frame::kPages:
      return in_round_ ? kept_.put(parse_pages(message)) : arrived(parse_pages(message));
    default:
      throw error("the other node sent \"{}\" instead of memory", *frame_name(message.type));
  }
}

void Pager::begin_round(const nlohmann::json& round) {
  if (in_round_ || final_) throw error("the other node began a round of memory where none was due");
  in_round_ = true;
  final_round_ = round.at("final").get<bool>();
  lanes_.begin_round([&] {
    for (const auto& pid : round.at("forget")) kept_.drop(pid.get<uint32_t>());
  });
  at_once_ = round.at("at_once").get<bool>();
}

void Pager::end_round(Wire& wire) {
  if (!in_round_) throw error("the other node ended a round of memory that it had not begun");
  in_round_ = false;
  if (final_round_) lanes_.end_rounds();
  final_ = final_round_;
  wire.send_json(Frame::kRoundDone, nlohmann::json::object());
}

// --- what CRIU restores

/// CRIU tells a task's pid in the box, then its userfaultfd; or that there are no more.
void Pager::take_space() {
  uint32_t pid = 0;
  const ssize_t got = ::recv(restorer_.get(), &pid, sizeof pid, MSG_WAITALL);
  if (got != sizeof pid || pid == kRestoreFinished) {
    if (got != sizeof pid) throw error("CRIU did not restore the box");
    restored_at_ = Clock::now();
    restorer_.close();
    return;
  }
  if (static_cast<int32_t>(pid) < 0) return;  // a zombie: it has no memory
  base::Fd fault = receive_descriptor(restorer_.get());
  auto lazy = lazy_.extract(pid);
  add_space(pid, std::move(fault), lazy ? std::move(lazy.mapped()) : PageSet());
}

void Pager::add_space(uint32_t pid, base::Fd fault, PageSet missing) {
  // Also that of a fork: the kernel gives it the flags with which the first one was made.
  ::fcntl(fault.get(), F_SETFL, O_NONBLOCK);
  ::fcntl(fault.get(), F_SETFD, FD_CLOEXEC);
  send_descriptor(guard_.get(), fault.get());
  spaces_.push_back({{pid, std::move(fault), std::move(missing)}});
}

// --- what the box does

void Pager::drain_all() {
  // A fork adds spaces while this runs.
  for (size_t i = 0; i < spaces_.size(); ++i) drain(spaces_[i]);
}

void Pager::drain(Space& space) {
  while (const auto event = space.next())
    if (event->event == UFFD_EVENT_FORK)
      add_space(space.pid, base::Fd(static_cast<int>(event->arg.fork.ufd)), space.missing);
    else
      on_fault(space, event->arg.pagefault.address & ~(kPageSize - 1));
}

void Pager::on_fault(Space& space, uint64_t address) {
  last_fault_ = Clock::now();
  const auto origin = space.missing.origin(address);
  if (!origin) return space.zero(address);
  // The page first, and at once.
  if (!give_kept(space, *origin, *origin + kPageSize))
    asked_.want(space.pid, *origin, *origin + kPageSize, true);
  uint64_t at = *origin & ~(kAround - 1);
  const uint64_t end = at + kAround;
  if (give_kept(space, at, end)) return;
  while (auto piece = space.missing.first_in(at, end)) {
    asked_.want(space.pid, piece->begin, piece->end, false);
    at = piece->end;
  }
}

// --- what was kept

/// Gives what was kept of [begin, end), as at the freeze; false when that was nothing.
bool Pager::give_kept(const Space& space, uint64_t begin, uint64_t end) {
  const uint32_t pid = space.pid;
  bool gave = false;
  for (uint64_t at = begin; auto piece = space.missing.first_in(at, end);) {
    const auto kept =
        kept_.first_in(pid, piece->begin, std::min(piece->end, piece->begin + kMostPages * kPageSize));
    if (kept) {
      give(kept_.read({pid, kept->begin, static_cast<uint32_t>((kept->end - kept->begin) / kPageSize)}));
      kept_.drop(pid, kept->begin, kept->end);  // every space of this pid has it now
      gave = true;
    }
    at = kept ? kept->end : piece->begin + std::min(piece->end - piece->begin, kMostPages * kPageSize);
  }
  return gave;
}

/// Gives one piece of what was kept before it is needed; false when there is nothing to do now.
bool Pager::give_ahead() {
  if (box_goes_first()) return false;
  for (size_t i = 0; i < spaces_.size(); ++i) {
    Space& space = spaces_[i];
    while (!space.given_all) {
      const auto piece = space.missing.first_in(space.given, UINT64_MAX);
      const auto kept =
          piece ? kept_.first_in(space.pid, piece->begin, std::min(piece->end, piece->begin + kGiveAtOnce))
                : std::nullopt;
      if (!piece)
        space.given_all = true;  // nothing is kept a second time
      else if (!kept)
        space.given = std::min(piece->end, piece->begin + kGiveAtOnce);
      else
        return give_kept(space, kept->begin, space.given = kept->end);
    }
  }
  return false;
}

// --- what is asked for

void Pager::ask_ahead() {
  if (!at_once_ && !past_head_start()) return;
  const uint64_t ahead = !at_once_ && Clock::now() - last_fault_ < kBusy ? kAheadBusy : kAheadIdle;
  for (auto& space : spaces_)
    if (!space.asked_all) ask_ahead(space, ahead);
}

void Pager::ask_ahead(Space& space, uint64_t ahead) {
  const bool from_beginning = space.asked == 0;
  while (Asked* const asked = room(ahead)) {
    const auto piece = space.missing.first_in(space.asked, UINT64_MAX);
    if (!piece) {
      if (asked_.bytes() + lanes_.asked_bytes() > 0) return;
      // Once more from the beginning, should something have been left out.
      space.asked_all = from_beginning;
      space.asked = 0;
      return;
    }
    const auto kept = kept_.first_in(space.pid, piece->begin, piece->end);
    if (kept && kept->begin == piece->begin) {
      space.asked = kept->end;
      continue;
    }
    const uint64_t end = std::min(kept ? kept->begin : piece->end, piece->begin + kMostPages * kPageSize);
    asked->want(space.pid, piece->begin, end, false);
    space.asked = end;
  }
}

// --- what comes

void Pager::arrived(const Pages& pages) {
  asked_.require(pages.run);
  give(pages);
  asked_.done(pages.run);
}

/// A page may be wanted in several address spaces, since the box has forked.
void Pager::give(const Pages& pages) {
  for (size_t i = 0; i < spaces_.size(); ++i)
    if (Space& space = spaces_[i]; space.pid == pages.run.pid) space.copy(pages, [&] { drain(space); });
}

}  // namespace migrate
