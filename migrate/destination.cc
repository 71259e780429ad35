#include "migrate/destination.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <format>
#include <future>
#include <thread>
#include <utility>

#include "base/error.h"
#include "base/log.h"
#include "base/pause.h"
#include "base/undo.h"
#include "box/box.h"
#include "box/cgroup.h"
#include "box/criu.h"
#include "box/frames.h"
#include "box/network.h"
#include "box/ownership.h"
#include "box/ready_for_criu.h"
#include "box/restore.h"
#include "box/rootfs.h"
#include "box/runtime.h"
#include "box/volume.h"
#include "migrate/arrival.h"
#include "migrate/arriving_lanes.h"
#include "migrate/caught.h"
#include "migrate/memory.h"
#include "migrate/pages.h"
#include "migrate/preflight.h"
#include "migrate/read_ahead.h"
#include "migrate/settle.h"
#include "migrate/stream.h"
#include "migrate/tree.h"

namespace migrate {
namespace {

using namespace std::chrono_literals;

// The source dumps, or waits for a slow disk, between two messages.
constexpr auto kPatience = 5min;
// Prepared, the destination waits for one word. When it does not come it asks for it.
constexpr auto kCommitPatience = 30s;
// The box runs, but what is left to do here waits for it.
constexpr auto kCaughtPatience = 5s;
// An arrival that was dropped has processes, mounts and files to take away.
constexpr auto kClearingUp = 10s;

/// Returns it as an Error.
base::Error tell_failure(Wire& wire, const std::exception& thrown) {
  // Of JSON: a key that is not there, or of another type.
  const bool unclear = dynamic_cast<const nlohmann::json::exception*>(&thrown) != nullptr;
  base::Error e = unclear ? base::error("the other node's message cannot be understood: {}", thrown.what())
                          : base::as_error(thrown);
  wire.send_failed(e.message(), e.hint());
  return e;
}

/// The destination's part in a move. The protocol, with the source's part, is drawn in
/// docs/overview.md; what is on the wire is in docs/formats/move-wire.md.
class DestinationNode {
 public:
  DestinationNode(const base::Context& context, Wire& wire, const nlohmann::json& hello)
      : context_(context),
        wire_(wire),
        hello_(Hello::parse(hello)),
        paths_(box::arriving_paths_of(context, hello_.config.name)) {}

  /// The source is told of a failure before what came is taken away: a frozen box may wait for it.
  void run() {
    try {
      serve();
    } catch (const std::exception& thrown) {
      tell_failure(wire_, thrown);
      throw;
    }
  }

 private:
  void serve() {
    // Whoever has just interrupted a move may repeat it while we still clear up after that.
    const auto deadline = std::chrono::steady_clock::now() + kClearingUp;
    while (!(lock_ = box::try_lock_box(context_, hello_.config.name)) &&
           std::chrono::steady_clock::now() < deadline)
      std::this_thread::sleep_for(20ms);
    if (!lock_) lock_ = box::lock_box(context_, hello_.config.name);  // says why it cannot
    clear_old_arrival(context_, hello_.config.name);
    for (State state = State::kOffer; state != State::kDone;) {
      switch (state) {
        case State::kOffer:
          state = offer();
          break;
        case State::kArrive:
          state = arrive();
          break;
        case State::kRounds:
          state = rounds();
          break;
        case State::kRestore:
          state = restore();
          break;
        case State::kPrepared:
          state = prepared();
          break;
        case State::kMine:
          state = mine();
          break;
        case State::kDone:
          break;
      }
    }
  }

  enum class State { kOffer, kArrive, kRounds, kRestore, kPrepared, kMine, kDone };

  // from: start, or the source has sent layers. to: kArrive, or kDone after a dry run
  State offer() {
    for (bool again = false;; again = true) {
      if (!again) inspect_destination(context_, hello_);
      auto missing = box::missing_layers(context_, hello_.config);
      wire_.send_json(Frame::kOffer,
                      {{"missing_layers", missing}, {"criu_start_ms", again ? 0 : box::criu_start_ms()}});
      if (hello_.dry_run) return probe();
      if (missing.empty()) return State::kArrive;
      if (again) throw base::error("layer {} of box {} did not arrive", missing.front(), hello_.config.name);
      wire_.expect_json(Frame::kLayers, kPatience);
    }
  }

  // from: kOffer. to: kDone. Memory that comes in a dry run shows how fast it comes.
  State probe() {
    for (;;) {
      const Message message = wire_.recv(kPatience, "a measurement");
      if (take_noise(message)) continue;
      if (message.type == Frame::kDataEnd) break;
      parse_pages(message);
    }
    wire_.send_json(Frame::kRoundDone, nlohmann::json::object());
    return State::kDone;
  }

  // from: kOffer. to: kRounds. From here the box is on record.
  State arrive() {
    undo_.add("drop the arriving box", [this] { drop_arrival(context_, hello_.config.name); });
    // All that does not depend on the box's last moments is ready before it is frozen.
    move_ = begin_arrival(context_, hello_.config, hello_.id, hello_.from, hello_.config.epoch, hello_.lazy);
    read_ahead_.emplace(box::mount_layers(context_, hello_.config), hello_.files);
    return State::kRounds;
  }

  // from: kArrive. to: kRestore, after the round in which the box was frozen.
  State rounds() {
    base::Fd layer = base::open(box::sent_directory(paths_), O_RDONLY | O_DIRECTORY);
    base::Fd images = base::open(paths_.images, O_RDONLY | O_DIRECTORY);
    for (bool last = false;;) {
      const Message message = wire_.recv(kPatience, "a round");
      if (take_noise(message)) continue;
      const bool due = message.type == Frame::kImages || message.type == Frame::kRound;
      const bool final = due && parse_json(message).at("final").get<bool>();
      if (message.type == Frame::kImages && final == last) {
        receive_data(images.get());
        if (final) return State::kRestore;
      } else if (message.type == Frame::kRound && !last) {
        receive_data(layer.get());
        base::pause_point("destination.round");
        last = final;
        if (final) continue;
        sync_tree(layer.get());
        wire_.send_json(Frame::kRoundDone, nlohmann::json::object());
      } else {
        throw base::error("the other node sent \"{}\" where it was not due", *frame_name(message.type));
      }
    }
  }

  // from: kRounds. to: kPrepared. The box's processes exist afterwards; none has run.
  State restore() {
    base::pause_point("destination.restoring");
    read_ahead_.reset();
    base::Fd layer = base::open(box::sent_directory(paths_), O_RDONLY | O_DIRECTORY);
    auto on_disk = std::async(std::launch::async, [&] { sync_tree(layer.get()); });
    box::mount_root(context_, hello_.config, paths_);
    auto request = box::restore_of(paths_, hello_.config);
    request.lazy = hello_.lazy;
    request.check = [this] { wire_.expect_silence(); };  // the source may have given us up
    box::restore(request);
    on_disk.get();
    base::pause_point("destination.restored");
    return State::kPrepared;
  }

  // from: kRestore. to: kMine. Once this is written down, the source decides, and nobody else.
  State prepared() {
    move_->advance(paths_, box::MoveStep::kPrepared);
    undo_.commit();
    base::pause_point("destination.prepared");
    if (hello_.lazy && !PagerLock::held(paths_)) {
      drop_arrival(context_, hello_.config.name);  // the source cannot have decided: it was promised nothing
      throw base::error("the process that brings the box's memory has ended");
    }
    try {
      wire_.send_json(Frame::kPrepared, nlohmann::json::object());
      wire_.expect_json(Frame::kCommit, kCommitPatience);
    } catch (const base::Error& lost) {
      // It may have been decided without our hearing of it.
      base::warn("{}: asking {} whose box {} is", lost.message(), hello_.from, hello_.config.name);
      wire_lost_ = true;
      if (!ask_source(context_, paths_, *move_, hello_.config, ask_patience())) return State::kDone;
    }
    return State::kMine;
  }

  // from: kPrepared. to: kDone. The box is this node's, whatever happens now.
  State mine() {
    take_over(context_, hello_.config.name, [this] {
      if (wire_lost_) return;
      try {
        wire_.send_json(Frame::kRunning, nlohmann::json::object());
        play_caught();
      } catch (const base::Error& lost) {
        base::warn("{}: {} will ask", lost.message(), hello_.from);  // the box runs all the same
      }
    });
    return State::kDone;
  }

  /// What clients sent to the box while it was frozen came to the source. The box need not have it.
  void play_caught() {
    try {
      const Message message = wire_.recv(kCaughtPatience, "what clients sent meanwhile");
      if (message.type == Frame::kCaught)
        box::play_frames(box::host_end_name(hello_.config.name), hello_.config.mac, parse_caught(message));
    } catch (const base::Error& e) {
      base::debug("{}", e.render());
    }
  }

  /// False: it is none.
  bool take_noise(const Message& message) {
    if (message.type != Frame::kNoise) return false;
    Message next = wire_.recv(kPatience, "noise");
    while (next.type == Frame::kNoise) next = wire_.recv(kPatience, "noise");
    if (next.type != Frame::kDataEnd)
      throw base::error("the other node sent \"{}\" where it was not due", *frame_name(next.type));
    wire_.send_json(Frame::kRoundDone, nlohmann::json::object());
    return true;
  }

  void receive_data(int dir) {
    ZstdSource source(wire_, kPatience);
    receive_tree(dir, source, {.check = [] { base::check_interrupt(); }});
    source.finish();
  }

  const base::Context& context_;
  Wire& wire_;
  Hello hello_;
  box::Paths paths_;
  const box::ReadyForCriu ready_;
  std::optional<box::Lock> lock_;  // held also while undo_ takes away what came
  std::optional<box::Move> move_;
  base::Undo undo_;
  std::optional<ReadAhead> read_ahead_;  // before what undo_ takes away
  bool wire_lost_ = false;
};

}  // namespace

void receive(const base::Context& context, int in, int out) {
  Wire wire(in, out);
  try {
    Message first = wire.recv(1min, "its greeting");
    auto json = parse_json(first);
    if (json.value("protocol", 0) != kProtocol)
      throw base::error("the other node speaks version {} of the protocol, and this one version {}",
                        json.value("protocol", 0), kProtocol)
          .hint("bring both to the same version of drover");
    switch (first.type) {
      case Frame::kHello:
        DestinationNode(context, wire, json).run();
        break;
      case Frame::kMemory:
        bring_memory(context, wire, json);
        break;
      case Frame::kLane:
        join_memory(context, json, in, out);
        break;
      case Frame::kFetch:
        answer_fetch(context, wire, json);
        break;
      case Frame::kAsk:
        answer_question(context, wire, json);
        break;
      case Frame::kSettle:
        answer_decision(context, wire, json);
        break;
      default:
        throw base::error("the other node began with something that is no greeting");
    }
  } catch (const std::exception& thrown) {
    throw tell_failure(wire, thrown);
  }
}

}  // namespace migrate
