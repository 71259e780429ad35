#include "migrate/source.h"

#include <algorithm>
#include <cstdint>
#include <optional>
#include <thread>
#include <utility>

#include "base/error.h"
#include "base/log.h"
#include "base/pause.h"
#include "base/undo.h"
#include "box/box.h"
#include "box/cgroup.h"
#include "box/criu.h"
#include "box/dump.h"
#include "box/firewall.h"
#include "box/frames.h"
#include "box/network.h"
#include "box/ownership.h"
#include "box/ready_for_criu.h"
#include "box/rootfs.h"
#include "box/runtime.h"
#include "migrate/caught.h"
#include "migrate/departure.h"
#include "migrate/dirty.h"
#include "migrate/memory.h"
#include "migrate/plan.h"
#include "migrate/preflight.h"
#include "migrate/preflight_box.h"
#include "migrate/quiet.h"
#include "migrate/rounds.h"
#include "migrate/settle.h"
#include "migrate/transport.h"
#include "migrate/wire.h"

namespace migrate {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

// The destination may wait for a slow disk between two messages.
constexpr auto kPatience = 5min;
// A restore that takes so long, and so many times the freeze that was predicted, hangs; the box is frozen.
constexpr auto kRestorePatience = 60s;
constexpr double kRestoreTimes = 10;
// So often and so long a box goes on for those who connect. Who has not come so far then, may not want to.
constexpr int kTurns = 5;
constexpr auto kTurn = 2ms;

/// The source's part in a move.
///
///     kPreflight ─ kLayers ─ kRounds ─ kFreeze ─ kRestore ─ kDecide ─ kFinish ─ kDone
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
        goal_(request.goal.resolved(DirtyMemory::supported() && box::can_restore_lazily())),
        lazy_(goal_.mode != Mode::kStop),
        transport_(request.rsh, request.to, {"drover-node", "receive"}),
        wire_(transport_.in(), transport_.out(), 60s),
        rounds_(context, request, goal_, paths_, wire_, report) {
    wire_.on_wait([this] {
      if (given_) return;
      base::check_interrupt();
      if (memory_lost_) std::rethrow_exception(memory_lost_);
      try {
        require_memory();
      } catch (const base::Error&) {
        // Until it is asked again the other node may tell on this wire why.
        memory_lost_ = std::current_exception();
      }
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
        case State::kRestore:
          state = restore();
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
  /// While it was frozen the box has ended.
  [[nodiscard]] bool lost() const { return lost_; }
  /// The box goes on here. False: not all of it could be undone.
  bool roll_back(const base::Error& cause) {
    // First: over a dead link the other node is not told soon.
    const bool complete = undo_.roll_back() && !lost_;
    if (complete) play_caught();
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
  /// What there is to say of the connections, in the end.
  void finish_wire() {
    transport_.pass_on_warnings();
    report_.wire_bytes = layers_ + wire_.wire_bytes();
    if (!memory()) return;
    memory()->close();
    memory()->pass_on_warnings();
    report_.wire_bytes += memory()->wire_bytes();
    report_.streams = memory()->streams();
  }

 private:
  enum class State { kPreflight, kLayers, kRounds, kFreeze, kRestore, kDecide, kFinish, kDone };

  // from: start. to: kLayers. Nothing is changed on either side.
  State preflight() {
    Step step = phase("preflight");
    report_.mode = to_string(goal_.mode);
    const box::Status status = box::require_running(context_, name_);
    criu_start_ms_ = box::criu_start_ms();  // while ssh connects
    hello_ = inspect_source(context_, status, lazy_);
    hello_.id = box::random_id();
    hello_.dry_run = request_.dry_run;
    wire_.send_json(Frame::kHello, hello_.json());
    return State::kLayers;
  }

  // from: kPreflight. to: kRounds, with all layers at the destination.
  State layers() {
    Step step = phase("layers");
    auto offer = wire_.expect_json(Frame::kOffer, kPatience);
    greeted_ = true;
    const double there = offer.value("criu_start_ms", 0.0);
    base::debug("CRIU starts in {:.1f} ms here, and in {:.1f} there", criu_start_ms_, there);
    criu_start_ms_ = criu_start_of(criu_start_ms_, there);
    if (request_.dry_run) return predict(offer.at("missing_layers"));
    if (offer.at("missing_layers").empty()) return State::kRounds;
    // On a connection of its own, since it is the same as `template copy`.
    Transport copy(request_.rsh, request_.to, {"drover-node", "template", "receive"});
    step.of_box = false;
    step.bytes = layers_ = box::send_layers(context_, hello_.config, copy.in(), copy.out());
    copy.finish();
    wire_.send_json(Frame::kLayers, nlohmann::json::object());
    wire_.expect_json(Frame::kOffer, kPatience);
    return State::kRounds;
  }

  // from: kLayers. to: kDone. A dry run.
  State predict(const std::vector<std::string>& missing_layers) {
    uint64_t bytes = 0;
    for (const auto& layer : hello_.config.layers)
      if (std::ranges::contains(missing_layers, layer.digest)) bytes += layer.bytes;
    report_.predicted = rounds_.measure(criu_start_ms_, hello_.private_bytes, bytes);
    return State::kDone;
  }

  // from: kLayers. to: kFreeze. The box runs and writes meanwhile; from here the move is on record.
  State rounds() {
    Plan plan(goal_, rounds_.prepare(criu_start_ms_));
    if (plan.next() == Plan::Next::kCannot) throw plan.refusal(name_, request_.to);
    move_ = box::begin_move(paths_, box::MoveStep::kLeaving, hello_.id, request_.to, request_.rsh,
                            hello_.config.epoch, lazy_);
    undo_.add("keep box " + name_ + " here", [this] {
      if (!keep_box(context_, hello_.config) && frozen()) lost_ = true;
    });
    base::pause_point("source.leaving");
    report_.predicted = rounds_.run(plan, hello_.id, started_);
    report_.rounds = plan.rounds();
    report_.bandwidth = plan.bandwidth();
    report_.dirty_rate = plan.dirty_rate();
    if (plan.next() == Plan::Next::kCannot) throw plan.refusal(name_, request_.to);
    base::pause_point("source.rounds");
    return State::kFreeze;
  }

  // from: kRounds. to: kRestore. Afterwards the freezer holds the box, with no process of ours or
  // CRIU's needed for it, and no frame reaches it: its kernel would acknowledge what only the
  // images' successor may.
  State freeze() {
    base::make_directories(paths_.images, 0700);
    base::make_directories(context_.run_dir + "/log", 0700);
    const auto init = box::find_init(group_);
    if (!init) throw base::error("box {} has ended while it was being moved", name_);
    base::check_interrupt();
    wire_.expect_silence();
    require_memory();
    auto request = box::dump_of(paths_, hello_.config, *init);
    request.lazy = lazy_;
    std::optional<Rounds::ImagesAhead> ahead;
    request.check = [&] {
      base::check_interrupt();
      if (ahead) ahead->check();
    };
    box::Dump dump(std::move(request));
    box::Gate gate(box::host_end_name(name_));
    catcher_.emplace(hello_.config.mac);
    frozen_at_ = Clock::now();
    close_and_freeze(gate, *init);
    require_movable(hello_.config, group_.pids(), *init);  // what has come since the preflight
    wait_for_requests(group_.pids(), paths_.priv);
    base::pause_point("source.frozen");
    follows_ = rounds_.last_memory();
    Step step = phase("dump");
    Report::Phase round{"last round"}, images{"images"};
    if (lazy_) ahead.emplace(rounds_);
    dump.run([&] {
      const auto start = Clock::now();
      if (ahead) images.bytes = ahead->end();
      images.ms = ms_since(start);
      round.bytes = rounds_.last_files();
      round.ms = ms_since(start) - images.ms;
      images.bytes += rounds_.images();
      images.ms = ms_since(start) - round.ms;
    });
    step.without = round.ms + images.ms;
    report_.phases.push_back(round);
    report_.phases.push_back(images);
    return State::kRestore;
  }

  // from: kFreeze. to: kDecide, with the box restored and frozen at the destination.
  State restore() {
    base::pause_point("source.dumped");
    Step step = phase("restore");
    const auto deadline = Clock::now() + restore_patience();
    wire_.expect_json(Frame::kPrepared, restore_patience(), "the restore of the box");
    if (memory()) memory()->wait(goal_.mode == Mode::kPrecopy, deadline);
    return State::kDecide;
  }

  // from: kRestore. to: kFinish.
  State decide() {
    base::pause_point("source.prepared");
    base::check_interrupt();
    wire_.expect_silence();
    require_memory();
    // The commit point: from this record on, the box is the destination's.
    move_->commit(paths_, box::MoveStep::kGiven, [this] {
      undo_.commit();
      given_ = true;
    });
    base::pause_point("source.given");
    return State::kFinish;
  }

  // from: kDecide. to: kDone.
  State finish() {
    try {
      Step step = phase("resume");
      wire_.send_json(Frame::kCommit, nlohmann::json::object());
      wire_.expect_json(Frame::kRunning, 30s);
    } catch (const base::Error& lost) {
      base::warn("{}: telling {} again that box {} is its own", lost.message(), request_.to, name_);
      catcher_.reset();  // the receiver of what is in it has gone
      if (!tell_destination(context_, *move_, name_, 60s,
                            [this] { return memory() && memory()->fetched_otherwise(); }))
        throw base::error("box {} was given to {}, which has not confirmed that it runs", name_, request_.to)
            .hint(std::string(lazy_ ? "leave this node up, where its memory is, and " : "") +
                  "run `drover-node recover` here or there as soon as they reach each other; it will not run "
                  "twice");
    }
    report_.freeze_ms = ms_since(*frozen_at_);
    report_.epoch = hello_.config.epoch + 1;
    send_caught();
    if (memory()) {
      Step step = phase("memory");
      context_.progress.of(follows_);
      step.bytes = memory()->finish(context_.progress);
    }
    base::pause_point("source.running");
    forget_box(context_, hello_.config, report_.epoch);
    return State::kDone;
  }

  [[nodiscard]] std::chrono::milliseconds restore_patience() const {
    const double predicted = report_.predicted ? report_.predicted->freeze_ms : 0;
    return std::max<std::chrono::milliseconds>(
        kRestorePatience, std::chrono::milliseconds(static_cast<int64_t>(kRestoreTimes * predicted)));
  }

  void require_memory() {
    if (memory_lost_) std::rethrow_exception(memory_lost_);
    if (memory()) memory()->require_connection();
  }

  /// At a moment when nobody is about to connect, for which it lets clients and box go on some times.
  void close_and_freeze(box::Gate& gate, pid_t init) {
    for (int turn = 0;; ++turn) {
      // What it gets last is caught, and its last answers still go out: shut at once, they would be lost.
      if (!gate.divert(hello_.config.mac)) {
        base::debug("this kernel cannot forward frames (nft_fwd_netdev): TCP has to send again");
        gate.shut();
      }
      freeze_quiet(group_);
      gate.shut();
      // Only now: what had passed the gate before has arrived.
      if (turn == kTurns || !somebody_connects(init)) return;
      group_.thaw();
      gate.open();
      play_caught();
      std::this_thread::sleep_for(kTurn);
    }
  }

  /// What clients have sent since the freeze. By now the network knows where the box is, and nothing
  /// more comes here. Without it TCP sends again, only later: so no failure in it is one of the move.
  void send_caught() {
    if (!catcher_) return;
    try {
      wire_.send(Frame::kCaught, encode_caught(catcher_->take()));
    } catch (const base::Error& e) {
      base::debug("{}", e.render());
    }
  }
  void play_caught() {
    if (!catcher_) return;
    try {
      box::play_frames(box::host_end_name(name_), hello_.config.mac, catcher_->take());
    } catch (const base::Error& e) {
      base::debug("{}", e.render());
    }
  }

  Step phase(std::string name) { return {context_.progress, report_.phases, std::move(name)}; }
  MemoryServer* memory() { return rounds_.memory(); }

  base::Context& context_;
  const MoveRequest& request_;
  Report& report_;
  const std::string name_;
  const box::Paths paths_;
  const box::Cgroup group_;
  const Goal goal_;
  const bool lazy_;  ///< CRIU's images do without the memory
  Transport transport_;
  Wire wire_;
  Hello hello_;
  double criu_start_ms_ = 0;  ///< here; from kRounds on, of both nodes
  const box::ReadyForCriu ready_;
  Rounds rounds_;
  const Clock::time_point started_ = Clock::now();
  std::optional<box::Move> move_;
  std::optional<Clock::time_point> frozen_at_;
  std::optional<box::FrameCatcher> catcher_;  ///< from the freeze on
  uint64_t follows_ = 0;                      ///< bytes of memory that were to be sent when it was frozen
  uint64_t layers_ = 0;                       ///< bytes of them that were sent, as they are: packed
  bool greeted_ = false;                      ///< the other node has answered
  bool given_ = false;
  bool lost_ = false;
  std::exception_ptr memory_lost_;  ///< why the memory's connection ended
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
    report.outcome = request.dry_run ? Outcome::kPlanned : Outcome::kMoved;
  } catch (const std::exception& thrown) {
    base::Error e = source.explain(base::as_error(thrown));
    if (!source.given()) {
      const bool undone = source.roll_back(e);
      report.outcome = undone ? Outcome::kRolledBack : Outcome::kFailed;
      if (source.lost()) e = with_lost_box(e, request.box);
      if (!undone)
        e.exit(base::Exit::kNeedsRecover);
      else if (source.frozen())
        e.exit(base::Exit::kRolledBack);
    } else {
      e.exit(base::Exit::kNeedsRecover);
    }
    source.finish_wire();
    report.total_ms = ms_since(start);
    throw std::move(e);
  }
  source.finish_wire();
  report.total_ms = ms_since(start);
}

}  // namespace migrate
