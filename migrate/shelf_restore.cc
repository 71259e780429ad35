#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <future>
#include <optional>

#include "base/error.h"
#include "base/pause.h"
#include "base/undo.h"
#include "box/box.h"
#include "box/cgroup.h"
#include "box/network.h"
#include "box/ownership.h"
#include "box/restore.h"
#include "box/rootfs.h"
#include "box/volume.h"
#include "migrate/arrival.h"
#include "migrate/checkpoint_file.h"
#include "migrate/preflight.h"
#include "migrate/shelf.h"
#include "migrate/tree.h"

namespace migrate {
namespace {

using Clock = std::chrono::steady_clock;

CheckpointReader open_file(const std::string& file) {
  try {
    return CheckpointReader(file);
  } catch (base::Error& e) {
    if (!e.hint().empty()) throw;
    throw std::move(e).hint("name a file that `drover-node box checkpoint` wrote");
  }
}

/// Nobody has a newer one, as far as this node knows. The box gets an epoch above all that is known.
uint64_t require_newest(const base::Context& context, const box::Config& config, bool force) {
  const uint64_t given = box::given_epoch(context, config).value_or(0);
  if (given > config.epoch && !force)
    throw base::error("this node gave box {} away (epoch {}) after this checkpoint was made (epoch {})",
                      config.name, given, config.epoch)
        .hint(
            "look for the node or the file that has it now; when that one is lost for good, --force takes "
            "this "
            "older one");
  return std::max(given, config.epoch);
}

class Restoring {
 public:
  Restoring(base::Context& context, const RestoreFileRequest& request, FileReport& report)
      : context_(context), request_(request), report_(report), reader_(open_file(report.file)) {}

  void run() {
    verify();
    lock_ = box::lock_box(context_, hello_.config.name);
    inspect();
    arrive();
    receive();
    restore();
    commit();
  }

  [[nodiscard]] bool arrived() const { return move_.has_value(); }
  [[nodiscard]] bool mine() const { return mine_; }
  bool roll_back() { return undo_.roll_back(); }

 private:
  /// All of the file is as a trusted node has signed it: nothing of it was used before.
  void verify() {
    Step step(context_.progress, report_.phases, "verify", reader_.size());
    const auto header = reader_.verify(node_keys(context_), [&](uint64_t done) {
      context_.progress.at(done);
      base::check_interrupt();
    });
    step.bytes = report_.bytes = reader_.size();
    try {
      hello_ = Hello::parse(header);
    } catch (const base::Error& e) {
      throw base::error("{} was written by a version of drover that this one does not understand: {}",
                        report_.file, e.message())
          .hint("bring both nodes to the same version");
    }
    report_.box = hello_.config.name;
    paths_ = box::arriving_paths_of(context_, hello_.config.name);
    base::pause_point("restore.verified");
  }

  /// Nothing is changed, but for what an earlier attempt has left.
  void inspect() {
    const box::Config& config = hello_.config;
    clear_old_arrival(context_, config.name);
    inspect_destination(context_, hello_, From::kFile);
    epoch_ = require_newest(context_, config, request_.force);
    if (auto missing = box::missing_layers(context_, config); !missing.empty())
      throw base::error("layer {} of box {} is not on this node", missing.front().substr(0, 19), config.name)
          .hint("bring its template here: `drover template copy " + config.template_ref + " --to THIS-NODE`");
  }

  void arrive() {
    undo_.add("drop the arriving box", [this] { drop_arrival(context_, hello_.config.name); });
    move_ = begin_arrival(context_, hello_.config, hello_.id, report_.file, epoch_);
  }

  void receive() {
    Step step(context_.progress, report_.phases, "unpack");
    base::Fd layer = base::open(box::sent_directory(paths_), O_RDONLY | O_DIRECTORY);
    base::Fd images = base::open(paths_.images, O_RDONLY | O_DIRECTORY);
    while (auto tree = reader_.next_tree()) {
      ZstdSource source(reader_);
      const TreeStats stats =
          receive_tree(*tree == Part::kImages ? images.get() : layer.get(), source,
                       {.check = [] { base::check_interrupt(); },
                        .progress = [&](uint64_t bytes) { context_.progress.at(step.bytes + bytes); }});
      source.finish();
      step.bytes += stats.bytes;
    }
    base::pause_point("restore.received");
  }

  /// The box's processes exist afterwards; none has run.
  void restore() {
    Step step(context_.progress, report_.phases, "restore");
    base::Fd layer = base::open(box::sent_directory(paths_), O_RDONLY | O_DIRECTORY);
    auto on_disk = std::async(std::launch::async, [&] { sync_tree(layer.get()); });
    box::mount_root(context_, hello_.config, paths_);
    auto request = box::restore_of(paths_, hello_.config);
    request.close_connections = true;
    box::restore(request);
    on_disk.get();
    base::pause_point("restore.restored");
    base::check_interrupt();
  }

  void commit() {
    Step step(context_.progress, report_.phases, "resume");
    // The commit point: from this record on, the box is this node's.
    move_->commit(paths_, box::MoveStep::kMine, [this] {
      undo_.commit();
      mine_ = true;
    });
    take_over(context_, hello_.config.name);
    report_.epoch = epoch_ + 1;
  }

  base::Context& context_;
  const RestoreFileRequest& request_;
  FileReport& report_;
  CheckpointReader reader_;
  Hello hello_;
  box::Paths paths_;
  std::optional<box::Lock> lock_;
  uint64_t epoch_ = 0;  ///< above which the box's will be
  std::optional<box::Move> move_;
  bool mine_ = false;
  base::Undo undo_;
};

}  // namespace

void restore_box(base::Context& context, const RestoreFileRequest& request, FileReport& report) {
  const auto start = Clock::now();
  report.file = absolute_path(request.file);
  Restoring restoring(context, request, report);
  try {
    restoring.run();
  } catch (const std::exception& thrown) {
    base::Error e = base::as_error(thrown);
    if (restoring.mine() || !restoring.roll_back())
      e.exit(base::Exit::kNeedsRecover);
    else if (restoring.arrived() && e.exit() == base::Exit::kFailed)
      e.exit(base::Exit::kRolledBack);
    throw std::move(e);
  }
  report.outcome = "restored";
  report.total_ms = ms_since(start);
}

}  // namespace migrate
