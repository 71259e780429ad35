#include "migrate/rounds.h"

#include <fcntl.h>

#include <algorithm>
#include <chrono>
#include <format>
#include <fstream>
#include <utility>
#include <vector>

#include "base/error.h"
#include "box/box.h"
#include "box/volume.h"
#include "migrate/huge.h"
#include "migrate/mapped.h"
#include "migrate/noise.h"
#include "migrate/open_files.h"
#include "migrate/pages.h"
#include "migrate/preflight.h"
#include "migrate/quiet.h"
#include "migrate/stream.h"

namespace migrate {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

// The destination waits for a slow disk between two messages.
constexpr auto kPatience = 5min;
// The destination's patience for a round is no greater; what takes longer has others between.
constexpr auto kLongSilence = 1min;
// For a dry run to measure.
constexpr auto kMeasure = 1s;
// For gathering memory into huge pages, while the box runs: at least, of each GiB, and at most: the
// destination waits.
constexpr std::chrono::milliseconds kCollapse = 10s, kCollapseEach = 5s, kCollapseMost = 3min;
// Of the private layer: not worth a round of its own.
constexpr uint64_t kSmallRound = 1 << 20;
// Of what goes in the freeze: with less, the wire hardly counts.
constexpr uint64_t kWorthMeasuring = 4 << 20;
// While CRIU writes its images. They are sent again as long as they are younger than two ticks of ctime
// (tree.h).
constexpr auto kBetweenImages = 10ms;

/// What these have written to files of a disk (proc_pid_io(5), write_bytes: counted when a page of the cache
/// is first written to). 0 where the kernel does not count.
uint64_t stored_bytes(const std::vector<pid_t>& pids) {
  uint64_t total = 0;
  for (const pid_t pid : pids) {
    std::ifstream in("/proc/" + std::to_string(pid) + "/io");
    std::string name;
    for (uint64_t bytes = 0; in >> name >> bytes;)
      if (name == "write_bytes:") total += bytes;
  }
  return total;
}

}  // namespace

Rounds::Rounds(base::Context& context, const MoveRequest& request, const Goal& goal, const box::Paths& paths,
               Wire& wire, Report& report)
    : context_(context),
      request_(request),
      goal_(goal),
      paths_(paths),
      wire_(wire),
      report_(report),
      group_(paths.cgroup) {}

BoxSize Rounds::prepare(double criu_start_ms) {
  image_ = box::has_image(paths_);
  layer_ = base::open(box::sent_directory(paths_), O_RDONLY | O_DIRECTORY);
  blocks_ = BlockWatch::start(layer_.get());
  if (goal_.mode != Mode::kStop) {
    Step step(context_.progress, report_.phases, "gather");
    step.of_box = false;
    const auto most = std::clamp(kCollapseEach * static_cast<int>(memory_of(group_.pids()) >> 30), kCollapse,
                                 kCollapseMost);
    step.bytes = collapse(box::processes_of(group_), most).bytes;
  }
  const auto pids = group_.pids();
  const uint64_t memory = memory_of(pids), huge = std::min(memory, huge_memory_of(pids));
  size_ = {.memory_bytes = memory,
           .small_pages = (memory - huge) / kPageSize,
           .huge_pages = huge / kHugePageSize,
           .shared_bytes = shared_bytes_of(pids),
           .processes = static_cast<unsigned>(pids.size()),
           .image_bytes = blocks_ ? 0 : box::image_bytes_on_disk(paths_),
           .criu_start_ms = criu_start_ms,
           .requests = std::ranges::any_of(pids, may_request)};
  return size_;
}

Forecast Rounds::measure(double criu_start_ms, uint64_t private_layer_bytes, uint64_t layer_bytes) {
  prepare(criu_start_ms);
  const double noise_bandwidth = noise(layer_bytes).bandwidth();
  const auto processes = box::processes_of(group_);
  PageSender sender(wire_, processes);
  DirtyMemory dirty;
  const auto start = Clock::now();
  const uint64_t stored = stored_bytes(group_.pids());
  Sent sent;
  for (const PageRun& run : runs_of(dirty.take(processes))) {
    if (Clock::now() - start > kMeasure) break;
    sent.bytes += sender.push(run);
  }
  wire_.send(Frame::kDataEnd);
  wire_.expect_json(Frame::kRoundDone, kPatience);
  sent.ms = ms_since(start);
  const uint64_t written = dirty.take(box::processes_of(group_)).bytes();
  const uint64_t stored_by_now = stored_bytes(group_.pids());  // less where a process has ended
  const auto rate = [&](uint64_t bytes) { return static_cast<double>(bytes) / sent.ms * 1e3; };
  Forecast out = Plan::forecast(goal_, size_,
                                {.bandwidth = sent.bandwidth(),
                                 .noise_bandwidth = noise_bandwidth,
                                 .dirty_rate = rate(written),
                                 .file_rate = rate(stored_by_now - std::min(stored, stored_by_now))},
                                private_layer_bytes);
  // They are packed already, and no part of the box.
  if (noise_bandwidth > 0) out.total_ms += static_cast<double>(layer_bytes) / noise_bandwidth * 1e3;
  return out;
}

/// Of what goes in the freeze it is not known how well it can be packed, and the box's private memory may be
/// too little to measure by.
Sent Rounds::noise(uint64_t layer_bytes) {
  const uint64_t bytes =
      size_.shared_bytes + layer_bytes + (goal_.mode == Mode::kStop ? size_.memory_bytes : 0);
  if (bytes < kWorthMeasuring) return {};
  Step step(context_.progress, report_.phases, "measure");
  step.of_box = false;
  return send_noise(wire_, bytes);
}

Forecast Rounds::run(Plan& plan, const std::string& id, Clock::time_point start) {
  if (!image_) watch_ = ChangeWatch::start(layer_.get());
  if (goal_.mode == Mode::kPrecopy || goal_.mode == Mode::kHybrid) dirty_.emplace();
  std::optional<Forecast> predicted;
  uint64_t files = UINT64_MAX;
  for (int number = 0;; ++number) {
    const auto since = Clock::now();
    const TreeStats sent = file_round(plan, number);
    const uint64_t before = std::exchange(files, sent.bytes);
    if (number > 0) {
      // Where nobody follows blocks the last round alone reads what is mapped; and an image is in `size_`.
      const uint64_t other = blocks_ ? 0 : shared_writable_bytes(group_.pids());
      plan.files(files, image_ && !blocks_ ? 0 : sent.read + other);
      // The box has written on, and the destination's disk may be slow.
      if (dirty_) {
        written_.add(dirty_->take(box::processes_of(group_)));
        plan.waited(ms_since(since), written_.bytes() + files);
      }
    }
    // The destination has answered: so the box is on its records, where the memory's process looks for it.
    if (goal_.mode != Mode::kStop && !memory_)
      memory_.emplace(request_.rsh, request_.to, id, request_.box, size_.memory_bytes, request_.streams);
    if (number == 0) plan.noise(noise());
    if (dirty_ && plan.next() == Plan::Next::kRound) {
      memory_round(plan, number, number == 0 ? 0 : files);
      if (!predicted) predicted = plan.forecast(ms_since(start), plan.dirty_rate());
      // What it has written to files meanwhile is like what it did during the round before.
      if (number > 0 && files < kSmallRound && plan.next() != Plan::Next::kRound) break;
    } else if (files < kSmallRound || files > before / 4 * 3) {
      break;  // it is short, or will not become shorter
    }
  }
  const Forecast now = plan.forecast(ms_since(start), plan.dirty_rate());
  if (!predicted) return now;
  predicted->freeze_ms = now.freeze_ms;
  predicted->reachable = now.reachable;
  return *predicted;
}

/// Sends what was written to the private layer since the round before; all of it at first.
TreeStats Rounds::file_round(Plan& plan, int number) {
  Step step(context_.progress, report_.phases, std::format("round {}", number));
  const auto start = Clock::now();
  const uint64_t before = wire_.wire_bytes();
  const TreeStats sent = send_layer(false);
  step.bytes = sent.bytes;
  wire_.expect_json(Frame::kRoundDone, kPatience);
  plan.carried({step.bytes, wire_.wire_bytes() - before, ms_since(start)});
  return sent;
}

/// The same of the memory. `files`: what is likely to be written to the private layer meanwhile.
void Rounds::memory_round(Plan& plan, int number, uint64_t files) {
  Step step(context_.progress, report_.phases, std::format("memory {}", number));
  auto processes = box::processes_of(group_);
  if (number == 0) written_ = dirty_->take(processes);
  context_.progress.of(written_.bytes());
  auto spoke = Clock::now();
  const Sent sent = memory_->push(processes, written_, [&](uint64_t done) {
    // Memory takes a connection of its own: on this one the destination waits, and not for ever.
    if (Clock::now() - spoke > kLongSilence) {
      send_layer(false);
      wire_.expect_json(Frame::kRoundDone, kPatience);
      spoke = Clock::now();
    }
    context_.progress.at(done);
  });
  step.bytes = sent.bytes;
  written_.add(dirty_->take(box::processes_of(group_)));
  plan.sent(sent, written_.bytes() + files);
}

uint64_t Rounds::last_memory() {
  if (!memory_) return 0;
  const auto processes = box::processes_of(group_);
  if (dirty_) written_.add(dirty_->take(processes));
  const uint64_t bytes = dirty_ ? written_.bytes() : size_.memory_bytes;
  memory_->serve(processes, std::move(written_), goal_.mode == Mode::kPrecopy);
  return bytes;
}

Rounds::ImagesAhead::ImagesAhead(Rounds& rounds)
    : sent_(std::async(std::launch::async, [this, &rounds] {
        uint64_t bytes = 0;
        while (!ended_.try_acquire_for(kBetweenImages)) bytes += rounds.send_images(false);
        return bytes;
      })) {}

Rounds::ImagesAhead::~ImagesAhead() { ended_.release(); }

void Rounds::ImagesAhead::check() {
  if (sent_.valid() && sent_.wait_for(std::chrono::seconds(0)) == std::future_status::ready) sent_.get();
}

uint64_t Rounds::ImagesAhead::end() {
  ended_.release();
  return sent_.get();
}

uint64_t Rounds::send_images(bool final) {
  wire_.send_json(Frame::kImages, {{"final", final}});
  base::Fd dir = base::open(paths_.images, O_RDONLY | O_DIRECTORY);
  return send(dir.get(), images_, {.final = final}).bytes;
}

TreeStats Rounds::send_layer(bool final) {
  wire_.send_json(Frame::kRound, {{"final", final}});
  if (image_) box::sync_image(paths_);
  SendOptions options;
  options.final = final;
  options.watch = watch_.get();
  options.blocks = blocks_.get();
  if (image_) {
    options.open.reset();
  } else {
    options.open = files_open_for_writing(group_.pids(), layer_.get());
    auto mapped = shared_writable_files(group_.pids(), layer_.get());
    if (final)
      options.mapped(std::move(mapped));
    else if (mapped && options.open)
      options.open->merge(*mapped);
  }
  return send(layer_.get(), sent_, std::move(options));
}

TreeStats Rounds::send(int dir, TreeSnapshot& last, SendOptions options) {
  options.check = [] { base::check_interrupt(); };
  // A phase of its own has a total of its own; in the freeze several of these are one phase.
  const bool whole_phase = &last == &sent_ && !options.final;
  options.progress = [this, whole_phase](uint64_t done, uint64_t total) {
    if (whole_phase) context_.progress.of(total);
    context_.progress.at(done);
  };
  ZstdSink sink(wire_);
  const TreeStats stats = send_tree(dir, sink, last, options);
  sink.finish();
  return stats;
}

}  // namespace migrate
