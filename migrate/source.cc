#include "migrate/source.h"

#include <fcntl.h>
#include <unistd.h>

#include <optional>
#include <random>

#include "base/error.h"
#include "base/log.h"
#include "base/pause.h"
#include "base/undo.h"
#include "box/box.h"
#include "box/cgroup.h"
#include "box/checkpoint.h"
#include "box/firewall.h"
#include "box/network.h"
#include "box/ownership.h"
#include "box/rootfs.h"
#include "box/runtime.h"
#include "migrate/preflight.h"
#include "migrate/settle.h"
#include "migrate/stream.h"
#include "migrate/transport.h"
#include "migrate/tree.h"
#include "migrate/wire.h"

namespace migrate {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

// The destination restores, or waits for a slow disk, between two messages.
constexpr auto kPatience = 5min;
// Live rounds end when one of them sent less than this, or after so many: a box that writes faster
// than the link carries would keep us here for ever.
constexpr uint64_t kSmallRound = 1 << 20;
constexpr int kMostRounds = 4;

double ms_since(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

std::string random_id() {
  std::random_device random;
  std::string id;
  for (int i = 0; i < 4; ++i) id += std::format("{:08x}", static_cast<uint32_t>(random()));
  return id;
}

/// The source's part in a move.
///
///     kPreflight ─ kLayers ─ kRounds ─ kFreeze ─ kImages ─ kDecide ─ kFinish ─ kDone
///     box runs here ───────────────────┤ frozen here, ──────┤ given ── runs there
///                                        and there
///
/// Until kDecide every failure ends with the box running here; undo_ holds how.
class SourceNode {
 public:
  SourceNode(base::Context& context, const MoveRequest& request, Report& report)
      : context_(context),
        request_(request),
        report_(report),
        name_(request.box),
        paths_(box::paths_of(context, request.box)),
        group_(paths_.cgroup),
        transport_(request.rsh, request.to, {"drover-node", "receive"}),
        wire_(transport_.in(), transport_.out(), 60s) {
    wire_.on_wait([this] {
      if (!given_) base::check_interrupt();
    });
  }

  void run() {
    for (State state = State::kPreflight; state != State::kDone;) {
      switch (state) {
        case State::kPreflight:
          state = preflight();
          break;
        case State::kLayers:
          state = layers();
          break;
        case State::kRounds:
          state = rounds();
          break;
        case State::kFreeze:
          state = freeze();
          break;
        case State::kImages:
          state = images();
          break;
        case State::kDecide:
          state = decide();
          break;
        case State::kFinish:
          state = finish();
          break;
        case State::kDone:
          break;
      }
    }
  }

  [[nodiscard]] bool frozen() const { return frozen_at_.has_value(); }
  [[nodiscard]] bool given() const { return given_; }
  /// The box goes on here. False: not all of it could be undone.
  bool roll_back(const base::Error& cause) {
    const bool complete = undo_.roll_back();  // first: over a dead link the other node is not told soon
    wire_.send_failed(cause.message(), cause.hint());
    return complete;
  }
  /// What the operator is told of an error.
  base::Error explain(const base::Error& e) {
    if (!e.message().starts_with("the other node") || greeted_ ||
        e.message().starts_with("the other node failed"))
      return naming(request_.to, e);
    if (wire_.bytes_received() == 0) return transport_.unreachable();
    return naming(request_.to, e)
        .hint(
            "drover-node has to be the only one that says something there: start-up files of the shell must "
            "not");
  }
  void count_wire() { report_.wire_bytes = wire_.wire_bytes(); }

 private:
  enum class State { kPreflight, kLayers, kRounds, kFreeze, kImages, kDecide, kFinish, kDone };

  // from: start. to: kLayers. Nothing is changed on either side.
  State preflight() {
    const Step step(*this, "preflight");
    hello_ = inspect_source(context_, box::require_running(context_, name_));
    hello_.id = random_id();
    wire_.send_json(Frame::kHello, hello_.json());
    return State::kLayers;
  }

  // from: kPreflight. to: kRounds, with all layers at the destination.
  State layers() {
    const Step step(*this, "layers");
    auto offer = wire_.expect_json(Frame::kOffer, kPatience);
    greeted_ = true;
    if (offer.at("missing_layers").empty()) return State::kRounds;
    // On a connection of its own, since it is the same as `template copy`.
    Transport copy(request_.rsh, request_.to, {"drover-node", "template", "receive"});
    step.bytes = box::send_layers(context_, hello_.config, copy.in(), copy.out());
    copy.finish();
    wire_.send_json(Frame::kLayers, nlohmann::json::object());
    wire_.expect_json(Frame::kOffer, kPatience);
    return State::kRounds;
  }

  // from: kLayers. to: kFreeze. The box runs and writes meanwhile; from here the move is on record.
  State rounds() {
    move_ = box::begin_move(paths_, box::MoveStep::kLeaving, hello_.id, request_.to, request_.rsh,
                            hello_.config.epoch);
    undo_.add("keep box " + name_ + " here", [this] { keep_box(context_, hello_.config); });
    base::pause_point("source.leaving");
    upper_ = base::open(paths_.upper, O_RDONLY | O_DIRECTORY);
    for (int round = 0; round < kMostRounds; ++round) {
      const Step step(*this, "round " + std::to_string(round));
      step.bytes = send_round(false);
      wire_.expect_json(Frame::kRoundDone, kPatience);
      if (round > 0 && step.bytes < kSmallRound) break;
    }
    base::pause_point("source.rounds");
    return State::kFreeze;
  }

  // from: kRounds. to: kImages. Afterwards the freezer holds the box, with no process of ours or
  // CRIU's needed for it, and no frame reaches it: its kernel would acknowledge what only the
  // images' successor may.
  State freeze() {
    base::make_directories(paths_.images, 0700);
    base::make_directories(context_.run_dir + "/log", 0700);
    const auto init = box::find_init(group_);
    if (!init) throw base::error("box {} has ended while it was being moved", name_);
    base::check_interrupt();
    wire_.expect_silence();
    box::Gate gate(box::host_end_name(name_));
    frozen_at_ = Clock::now();
    gate.shut();
    group_.freeze();
    base::pause_point("source.frozen");
    const Step step(*this, "dump");
    double round_ms = 0;
    uint64_t round_bytes = 0;
    box::Criu().dump({.init = *init,
                      .images = paths_.images,
                      .log = paths_.criu_log,
                      .root = paths_.root,
                      .cgroup = paths_.cgroup,
                      .host_end = box::host_end_name(name_),
                      .lock = paths_.criu_lock},
                     [&] {
                       const auto start = Clock::now();
                       round_bytes = send_round(true);
                       round_ms = ms_since(start);
                     });
    step.without = round_ms;
    report_.phases.push_back({"last round", round_ms, round_bytes});
    return State::kImages;
  }

  // from: kFreeze. to: kDecide, with the box restored and frozen at the destination.
  State images() {
    base::pause_point("source.dumped");
    {
      const Step step(*this, "images");
      wire_.send_json(Frame::kImages, nlohmann::json::object());
      base::Fd dir = base::open(paths_.images, O_RDONLY | O_DIRECTORY);
      TreeSnapshot nothing;
      step.bytes = send(dir.get(), nothing, {.final = true});
    }
    const Step step(*this, "restore");
    wire_.expect_json(Frame::kPrepared, kPatience);
    return State::kDecide;
  }

  // from: kImages. to: kFinish.
  State decide() {
    base::pause_point("source.prepared");
    base::check_interrupt();
    wire_.expect_silence();
    // The commit point: from this record on, the box is the destination's.
    give();
    undo_.commit();
    given_ = true;
    base::pause_point("source.given");
    return State::kFinish;
  }

  /// Where the record could not be written for certain but is there, the other node may have been
  /// told of it: then the box stays frozen, and `recover` reads what there is.
  void give() {
    try {
      move_->advance(paths_, box::MoveStep::kGiven);
    } catch (base::Error& e) {
      auto found = box::find_move(paths_);
      if (found && found->step != box::MoveStep::kGiven) throw;
      undo_.commit();
      given_ = true;
      throw std::move(e)
          .hint("look at the disk, then run `drover-node recover` here")
          .exit(base::Exit::kNeedsRecover);
    }
  }

  // from: kDecide. to: kDone.
  State finish() {
    const Step step(*this, "resume");
    try {
      wire_.send_json(Frame::kCommit, nlohmann::json::object());
      wire_.expect_json(Frame::kRunning, 30s);
    } catch (const base::Error& lost) {
      base::warn("{}: telling {} again that box {} is its own", lost.message(), request_.to, name_);
      if (!tell_destination(context_, *move_, name_, 60s))
        throw base::error("box {} was given to {}, which has not confirmed that it runs", name_, request_.to)
            .hint(
                "run `drover-node recover` here or there as soon as they reach each other; it will not run "
                "twice");
    }
    report_.freeze_ms = ms_since(*frozen_at_);
    report_.epoch = hello_.config.epoch + 1;
    base::pause_point("source.running");
    forget_box(context_, hello_.config, report_.epoch);
    return State::kDone;
  }

  uint64_t send_round(bool final) {
    wire_.send_json(Frame::kRound, {{"final", final}});
    SendOptions options;
    options.final = final;
    if (final) options.always = shared_writable_files(group_.pids(), upper_.get());
    return send(upper_.get(), sent_, std::move(options));
  }

  uint64_t send(int dir, TreeSnapshot& last, SendOptions options) {
    options.check = [] { base::check_interrupt(); };
    options.progress = [this](uint64_t done, uint64_t) { context_.progress.at(done); };
    ZstdSink sink(wire_);
    const TreeStats stats = send_tree(dir, sink, last, options);
    sink.finish();
    return stats.bytes;
  }

  /// A phase of the move: begins and ends it for `Progress`, and puts it into the report.
  struct Step {
    Step(SourceNode& source, std::string phase)
        : source_(source), name_(std::move(phase)), phase_(source.context_.progress, name_) {}
    ~Step() { source_.report_.phases.push_back({name_, ms_since(start_) - without, bytes}); }
    Step(const Step&) = delete;
    Step& operator=(const Step&) = delete;
    mutable uint64_t bytes = 0;
    mutable double without = 0;  ///< ms in it that another phase counts

   private:
    SourceNode& source_;
    std::string name_;
    base::Phase phase_;
    Clock::time_point start_ = Clock::now();
  };

  base::Context& context_;
  const MoveRequest& request_;
  Report& report_;
  const std::string name_;
  const box::Paths paths_;
  const box::Cgroup group_;
  Transport transport_;
  Wire wire_;
  Hello hello_;
  base::Fd upper_;
  TreeSnapshot sent_;  ///< what the destination has of the private layer
  std::optional<box::Move> move_;
  std::optional<Clock::time_point> frozen_at_;
  bool greeted_ = false;  ///< the other node has answered
  bool given_ = false;
  base::Undo undo_;
};

}  // namespace

void move_box(base::Context& context, const MoveRequest& request, Report& report) {
  const auto start = Clock::now();
  report.box = request.box;
  report.to = request.to;
  const box::Lock lock = box::lock_box(context, request.box);
  const box::Config config = box::load_config(context, request.box);
  report.epoch = config.epoch;
  box::require_no_move(box::paths_of(context, request.box), request.box);
  box::require_running(context, request.box);

  SourceNode source(context, request, report);
  try {
    source.run();
    report.outcome = Outcome::kMoved;
  } catch (const base::Error& thrown) {
    base::Error e = source.explain(thrown);
    if (!source.given()) {
      const bool undone = source.roll_back(e);
      report.outcome = undone ? Outcome::kRolledBack : Outcome::kFailed;
      if (!undone)
        e.exit(base::Exit::kNeedsRecover);
      else if (source.frozen())
        e.exit(base::Exit::kRolledBack);
    } else {
      e.exit(base::Exit::kNeedsRecover);
    }
    source.count_wire();
    report.total_ms = ms_since(start);
    throw std::move(e);
  }
  source.count_wire();
  report.total_ms = ms_since(start);
}

}  // namespace migrate
