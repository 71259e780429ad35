#include "migrate/plan.h"

#include <algorithm>
#include <cmath>
#include <format>

namespace migrate {
namespace {

// What dump and restore take beside memory, in times of what CRIU takes to start: for a process, and for each
// more. Measured, not derived (decision 30): a box of 2 processes is frozen for 21 to 25 of these times, a
// Debian box of 15 (template full) for 53 to 58, of 22 for 75 to 78, and one of 42 that have nothing but
// themselves for 71 to 75. This decides whether a box is frozen at all: so what is written here is more.
constexpr double kOneProcess = 26, kEachMore = 2.8;
// In ms: what CRIU takes to start where nobody has measured it; and what it may be.
constexpr double kUsualStart = 5, kShortestStart = 0.5, kLongestStart = 200;
// Until its asynchronous requests have ended, if the disk is idle then (quiet.h).
constexpr double kRequests = 55;
// Of the dump, the walk over page maps: 4 GB in small pages 60 to 66, in huge ones 17 to 25, of a process
// whose dump takes 4 without (docs/decisions/0015); on another machine, with 5 GB in huge ones, 48.
constexpr double kEachPage = 0.00006, kEachHugePage = 0.02;
// Only in mode stop: CRIU takes memory page by page into images, and reads it at the other end. redis with
// 217 MB and 1 GB, both on one machine: 0.54 and 1.4 s.
constexpr double kImagesEachByte = 1.2e-6;
// Around the freeze: connecting, preflight, layers, the first look at the private layer (shell: 431 in all,
// 169 frozen).
constexpr double kAround = 260;
// What may have changed of a large file is read in the freeze, and compared with what was sent: all of it
// where nobody knows (decision 31). 2 GB in 343 to 778 ms (decision 16).
constexpr double kComparedEachByte = 0.36e-6;

// Bytes per second, until something was measured: what gigabit Ethernet carries, the slowest that a rack has.
constexpr double kSlowestWire = 115e6;
// Less of a private layer than this says more of looking for it than of the wire.
constexpr uint64_t kTelling = 8 << 20;
// In ms: what takes the wire no longer is not worth a round of its own.
constexpr double kTrifle = 10;
// A round has made progress when it left less than that of the smallest dirty set so far.
constexpr double kProgress = 0.9;
// How long the dirty set may stay the same until it is taken for a working set that stays. In rounds, as one
// of them may have met a burst of writing; in time, as short rounds are over while one burst lasts (a fork of
// redis for its snapshot is one). This counts only rounds that gained nothing: how many others there are,
// they decide.
constexpr int kIdleRounds = 3;
constexpr double kIdleMs = 2000;
// In ms; of a computed round: the way there and back.
constexpr double kShortestRound = 1;

double starts_ms(const BoxSize& size) {
  const unsigned more = size.processes > 1 ? size.processes - 1 : 0;
  return size.criu_start_ms * (kOneProcess + kEachMore * more);
}

double fixed_ms(const Goal& goal, const BoxSize& size) {
  const double pages = kEachPage * static_cast<double>(size.small_pages) +
                       kEachHugePage * static_cast<double>(size.huge_pages);
  const uint64_t in_images = size.shared_bytes + (goal.mode == Mode::kStop ? size.memory_bytes : 0);
  const double images = kImagesEachByte * static_cast<double>(in_images);
  return starts_ms(size) + (size.requests ? kRequests : 0) + pages + images +
         kComparedEachByte * static_cast<double>(size.image_bytes);
}

/// Up to the next figure that one would type.
uint64_t rounded_up(double ms) {
  const double step = ms < 1000 ? 10 : ms < 10000 ? 100 : 1000;
  return static_cast<uint64_t>(std::ceil(ms / step) * step);
}

std::string rate(double bytes_per_second) {
  return bytes_per_second < 10e6 ? std::format("{:.1f} MB/s", bytes_per_second / 1e6)
                                 : std::format("{:.0f} MB/s", bytes_per_second / 1e6);
}

}  // namespace

double criu_start_of(double source_ms, double destination_ms) {
  const bool source = source_ms > 0, destination = destination_ms > 0;
  if (!source && !destination) return kUsualStart;
  const double mean = source && destination ? (source_ms + destination_ms) / 2
                      : source              ? source_ms
                                            : destination_ms;
  return std::clamp(mean, kShortestStart, kLongestStart);
}

Mode parse_mode(const std::string& name) {
  for (const Mode mode : {Mode::kAuto, Mode::kPrecopy, Mode::kPostcopy, Mode::kHybrid, Mode::kStop})
    if (name == to_string(mode)) return mode;
  throw base::error("'{}' is no way to move a box", name)
      .hint("--mode auto, precopy, postcopy, hybrid or stop")
      .exit(base::Exit::kUsage);
}

const char* to_string(Mode mode) {
  switch (mode) {
    case Mode::kStop:
      return "stop";
    case Mode::kPrecopy:
      return "precopy";
    case Mode::kPostcopy:
      return "postcopy";
    case Mode::kHybrid:
      return "hybrid";
    case Mode::kAuto:
      return "auto";
  }
  return "?";
}

Goal Goal::resolved(bool can_track) const {
  Goal out = *this;
  if (mode != Mode::kAuto) return out;
  out.by_auto = true;
  out.mode = can_track ? Mode::kPrecopy : Mode::kStop;
  return out;
}

Plan::Plan(const Goal& goal, const BoxSize& size)
    : goal_(goal), size_(size), dirty_(size.memory_bytes), least_(size.memory_bytes) {
  if (goal.mode == Mode::kAuto) throw base::error("the mode of a move was not decided");
}

// The wire's speed is that of the last rounds, each weighed by its bytes: an early large one says more than a
// late one of some pages, of which most is the way there and back. But what is older counts half, as links
// change. (QEMU measures anew every 100 ms, and reports a bandwidth near nothing when a late iteration is
// short.)
void Plan::weigh(const Sent& what) {
  weighed_bytes_ = weighed_bytes_ / 2 + static_cast<double>(what.bytes);
  weighed_ms_ = weighed_ms_ / 2 + what.ms;
}

void Plan::carried(const Sent& what) {
  sent_bytes_ += what.bytes;
  if (what.bytes >= kTelling) weigh(what);
}

void Plan::sent(const Sent& round, uint64_t dirty_after) {
  weigh(round);
  sent_bytes_ += round.bytes;
  ++rounds_;
  dirty_before_ = dirty_;
  dirty_ = dirty_after;
  last_ms_ = round.ms;
  if (static_cast<double>(dirty_after) < kProgress * static_cast<double>(least_)) {
    least_ = dirty_after;
    idle_rounds_ = 0;
    idle_ms_ = 0;
  } else {
    ++idle_rounds_;
    idle_ms_ += round.ms;
  }
}

void Plan::waited(double ms, uint64_t dirty_after) {
  dirty_ = dirty_after;
  last_ms_ += ms;
}

double Plan::bandwidth() const {
  return weighed_bytes_ > 0 && weighed_ms_ > 0 ? weighed_bytes_ / weighed_ms_ * 1e3 : 0;
}

double Plan::dirty_rate() const { return last_ms_ > 0 ? static_cast<double>(dirty_) / last_ms_ * 1e3 : 0; }

/// Whether the box stays frozen until its memory has arrived.
bool Plan::memory_waits() const { return goal_.mode == Mode::kStop || goal_.mode == Mode::kPrecopy; }

double Plan::link_ms(uint64_t bytes) const {
  const double unmeasured = noise_bandwidth_ > 0 ? noise_bandwidth_ : kSlowestWire;
  return static_cast<double>(bytes) / (bandwidth() > 0 ? bandwidth() : unmeasured) * 1e3;
}

/// With which the images reach the destination: how well they can be packed is not known.
double Plan::shared_bandwidth() const {
  if (noise_bandwidth_ > 0) return noise_bandwidth_;
  return bandwidth() > 0 ? bandwidth() : kSlowestWire;
}

/// What takes no wire.
double Plan::here_ms() const {
  return fixed_ms(goal_, size_) + kComparedEachByte * static_cast<double>(read_);
}

/// What no round makes shorter. As long as rounds are to come that measure the wire, it counts for nothing:
/// the slowest one would keep boxes from moving that could.
double Plan::least_ms() const {
  const bool last_word = goal_.mode == Mode::kStop || (goal_.mode == Mode::kPostcopy && sent_bytes_ > 0);
  const bool known = noise_bandwidth_ > 0 || bandwidth() > 0 || last_word;
  return here_ms() + (known ? static_cast<double>(size_.shared_bytes) / shared_bandwidth() * 1e3 : 0);
}

double Plan::freeze_ms() const {
  // Of precopy's rounds `dirty_` has the files too.
  return least_ms() + (memory_waits() ? link_ms(dirty_) : 0) +
         (goal_.mode == Mode::kPrecopy ? 0 : link_ms(files_));
}

/// What the last round has left of what it had to send. As that is sent at `bandwidth` and comes back at
/// `dirty_rate`, it is the quotient of the two as well: at 1 and more, a box writes as fast as the wire
/// carries.
double Plan::shrink() const {
  return static_cast<double>(dirty_) / static_cast<double>(std::max<uint64_t>(dirty_before_, 1));
}

// A box does not write at a constant rate to ever new pages. It has a writable working set (Clark et al.,
// Live Migration of Virtual Machines, NSDI 2005): what it writes again and again. A long round's dirty set
// fills that up and stops there, a shorter one's is smaller. So the dirty sets themselves tell: as long as
// they shrink, each makes the next round shorter, and that the next dirty set smaller. Where the set is as
// large as the wire carries in the time that it is written anew, they stay the same, and more rounds gain
// nothing. Clark's rounds end there as well, or after 30 of them, or after thrice the memory; no such count
// is needed here.
bool Plan::stalled() const { return idle_rounds_ >= kIdleRounds && idle_ms_ >= kIdleMs; }

/// Whether another round would make what is left much smaller: by half, and by more than a trifle. The next
/// round is as long as this dirty set takes; at the rate of the last round, `shrink()` of it would be written
/// again. Shorter rounds see a higher rate, so that this promises too much rather than too little: what came
/// of it, the next question weighs.
bool Plan::pays() const {
  if (rounds_ == 0) return true;
  return link_ms(dirty_) > kTrifle && shrink() <= 0.5;
}

Plan::Next Plan::next() const {
  // Who named this mode wants the box to stand as long as its memory takes: the target is none of a move in
  // which nothing can be done for it. Where nobody did, because a node cannot track writes, it would come as
  // a surprise.
  if (goal_.mode == Mode::kStop)
    return meets_target() || goal_.force || !goal_.by_auto ? Next::kFreeze : Next::kCannot;

  // No round helps against a dump and a restore that take too long, so none is sent.
  const bool in_reach = least_ms() <= goal_.max_downtime_ms;
  if (!in_reach && !goal_.force) return Next::kCannot;

  const Next end = meets_target() || goal_.force ? Next::kFreeze : Next::kCannot;
  switch (goal_.mode) {
    case Mode::kPostcopy:
      return end;
    case Mode::kHybrid:
      // Its freeze is the same after any round. Rounds shorten the time in which the box is spread over two
      // nodes: what is written to once need not follow, and what is written all the time is not worth sending
      // twice.
      return pays() ? Next::kRound : end;
    default:
      break;
  }
  // QEMU's rule: freeze when the rest takes no longer than allowed. What is predicted here counts dump and
  // restore too, which a virtual machine hardly has.
  if (rounds_ > 0 && meets_target()) return Next::kFreeze;
  if (dirty_ == 0) return Next::kFreeze;  // only with force: the rest of the freeze no round can shorten
  // With force the best is what counts: the end is where rounds gain no more.
  if (goal_.force && !in_reach && rounds_ > 0 && link_ms(dirty_) <= kTrifle) return Next::kFreeze;
  if (!stalled()) return Next::kRound;
  return goal_.force ? Next::kFreeze : Next::kCannot;
}

// The same decisions on rounds that are computed. A short measurement tells no working set: a rate that holds
// up to all of the memory promises too little of long rounds, and too much of short ones.
Forecast Plan::forecast(double elapsed_ms, double dirty_rate, double file_rate) const {
  Plan plan = *this;
  const auto memory = static_cast<double>(size_.memory_bytes);
  while (plan.next() == Next::kRound) {
    const double ms = std::max(plan.link_ms(plan.dirty_), kShortestRound);
    const double written = std::min(memory, dirty_rate * ms / 1e3) + file_rate * ms / 1e3;
    const Sent round = {.bytes = plan.dirty_, .wire_bytes = plan.dirty_, .ms = ms};
    plan.sent(round, static_cast<uint64_t>(written));
    elapsed_ms += ms;
  }
  Forecast out;
  out.rounds = plan.rounds_;
  out.freeze_ms = plan.freeze_ms();
  out.bandwidth = bandwidth() > 0 ? bandwidth() : kSlowestWire;
  out.dirty_rate = dirty_rate;
  out.bytes = plan.sent_bytes_ + plan.dirty_ + size_.shared_bytes;
  out.total_ms = elapsed_ms + out.freeze_ms + (memory_waits() ? 0 : plan.link_ms(plan.dirty_));
  out.reachable = plan.meets_target() || (goal_.mode == Mode::kStop && !goal_.by_auto);
  return out;
}

base::Error Plan::refusal(const std::string& box, const std::string& node) const {
  const double fixed = here_ms();
  // Before the first round nobody knows what the last one will leave.
  const double predicted = rounds_ == 0 && goal_.mode == Mode::kPrecopy ? least_ms() : freeze_ms();
  const auto megabytes = [](uint64_t bytes) { return static_cast<double>(bytes) / 1e6; };
  const double left = megabytes(dirty_);
  std::string why;
  if (fixed > goal_.max_downtime_ms)
    why =
        std::format("dump and restore alone take {:.0f}, with {} process{} and {} pages", fixed,
                    size_.processes, size_.processes == 1 ? "" : "es", size_.small_pages + size_.huge_pages) +
        (size_.shared_bytes < 1'000'000
             ? ""
             : std::format(", {:.0f} MB of shared memory and deleted files", megabytes(size_.shared_bytes))) +
        (size_.image_bytes == 0
             ? ""
             : std::format(", and {:.0f} MB of an image to compare", megabytes(size_.image_bytes))) +
        (read_ < 10'000'000
             ? ""
             : std::format(", and {:.0f} MB of files that it writes to, to compare", megabytes(read_)));
  else if (least_ms() > goal_.max_downtime_ms || !memory_waits())
    why = std::format(
        "{:.0f} MB of shared memory, deleted files and written files have to be sent meanwhile, and {} reach "
        "{}",
        megabytes(size_.shared_bytes + files_), rate(shared_bandwidth()), node);
  else if (rounds_ == 0)
    why = std::format("{:.0f} MB of memory have to be sent meanwhile", left);
  else
    why = std::format("it writes {}, {} reach {}, and {:.1f} MB stay to be sent", rate(dirty_rate()),
                      rate(bandwidth()), node, left);

  // A tenth more, and a trifle of memory, so that the next attempt does not fail by a hair; and it measures
  // anew what CRIU takes, on a machine that may have more to do.
  const uint64_t enough = rounded_up(predicted * 1.1 + starts_ms(size_) * 0.4 + kTrifle);
  std::string hint = "--force moves it all the same";
  if (enough <= kMostDowntimeMs) hint += std::format(", --max-downtime {} would be met", enough);
  // Post-copy's dump reads no memory, but walks the same page maps.
  Plan postcopy = *this;
  postcopy.goal_.mode = Mode::kPostcopy;
  if (memory_waits() && postcopy.meets_target())
    hint += goal_.mode == Mode::kStop ? ", and --mode postcopy does not wait for memory"
                                      : ", and --mode hybrid or postcopy does not wait for memory";
  return base::error("box {} would be frozen for {:.0f} ms, and {:.0f} are allowed: {}", box, predicted,
                     goal_.max_downtime_ms, why)
      .hint(hint);
}

Forecast Plan::forecast(const Goal& asked, const BoxSize& size, const Measured& measured,
                        uint64_t private_layer_bytes) {
  Plan plan(asked.resolved(true), size);
  plan.weighed_bytes_ = measured.bandwidth > 0 ? measured.bandwidth : kSlowestWire;
  plan.weighed_ms_ = 1e3;  // a second of it, and no part of the move
  plan.noise_bandwidth_ = measured.noise_bandwidth;
  double elapsed_ms = kAround + plan.link_ms(private_layer_bytes);
  // Of files there is a round as long as each finds less.
  auto files = private_layer_bytes;
  for (bool less = true; less && files > 0;) {
    const double ms = plan.link_ms(files);
    const auto written = static_cast<uint64_t>(measured.file_rate * ms / 1e3);
    less = written < files / 4 * 3;
    files = written;
    if (less) elapsed_ms += plan.link_ms(files);
  }
  plan.files(files, 0);
  Forecast out = plan.forecast(elapsed_ms, measured.dirty_rate, measured.file_rate);
  out.bytes += private_layer_bytes;
  return out;
}

}  // namespace migrate
