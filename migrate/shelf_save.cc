#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <optional>

#include "base/error.h"
#include "base/pause.h"
#include "base/undo.h"
#include "box/box.h"
#include "box/cgroup.h"
#include "box/dump.h"
#include "box/firewall.h"
#include "box/network.h"
#include "box/ownership.h"
#include "box/volume.h"
#include "migrate/checkpoint_file.h"
#include "migrate/departure.h"
#include "migrate/mapped.h"
#include "migrate/preflight.h"
#include "migrate/preflight_box.h"
#include "migrate/quiet.h"
#include "migrate/shelf.h"
#include "migrate/tree.h"

namespace migrate {
namespace {

using Clock = std::chrono::steady_clock;

// Each live round stays in the file, so a second one is worth it only where the first took long.
constexpr int kMostRounds = 2;
constexpr uint64_t kSmallRound = 64 << 20;

std::string directory_of(const std::string& file) { return std::filesystem::path(file).parent_path(); }

/// The file can be made, as far as that can be known.
std::string checked_path(const std::string& file) {
  std::string path = absolute_path(file);
  struct stat s{};
  if (::stat(directory_of(path).c_str(), &s) != 0 || !S_ISDIR(s.st_mode))
    throw base::error("there is no directory {}", directory_of(path)).hint("make it, or name another one");
  if (::lstat(path.c_str(), &s) == 0 && !S_ISREG(s.st_mode))
    throw base::error("{} is there and is not a regular file", path).hint("name another one");
  return path;
}

class Saving {
 public:
  Saving(base::Context& context, const CheckpointRequest& request, FileReport& report)
      : context_(context),
        stop_(request.stop),
        report_(report),
        name_(request.box),
        paths_(box::paths_of(context, request.box)),
        group_(paths_.cgroup) {}

  void run(const std::string& file) {
    preflight(file);
    rounds();
    freeze();
    if (!stop_) thaw();
    images();
    give_name();
    if (stop_)
      forget();
    else
      clean_up();
  }

  [[nodiscard]] bool frozen() const { return frozen_at_.has_value(); }
  [[nodiscard]] bool given() const { return given_; }
  /// While it was frozen the box has ended.
  [[nodiscard]] bool lost() const { return lost_; }
  bool roll_back() { return undo_.roll_back() && !lost_; }

 private:
  /// Nothing is changed.
  void preflight(const std::string& file) {
    Step step(context_.progress, report_.phases, "preflight");
    file_ = report_.file = checked_path(file);
    hello_ = inspect_source(context_, box::require_running(context_, name_));
    hello_.id = box::random_id();
    config_ = hello_.config;
    // With --stop the file becomes the owner.
    if (stop_) ++hello_.config.epoch;
    report_.epoch = hello_.config.epoch;
  }

  /// The private layer, while the box runs. From here it is on record.
  void rounds() {
    move_ = box::begin_move(paths_, box::MoveStep::kSaving, hello_.id, file_, {}, config_.epoch);
    undo_.add("keep box " + name_ + " here", [this] {
      if (!keep_box(context_, config_) && frozen()) lost_ = true;
    });
    undo_.add("remove the unfinished file", [this] { drop_unfinished_file(file_, hello_.id); });
    base::pause_point("checkpoint.saving");
    writer_.emplace(unfinished_file(file_, hello_.id), file_);
    auto header = hello_.json();
    header["taken"] =
        std::chrono::duration_cast<std::chrono::seconds>(context_.clock.wall().time_since_epoch()).count();
    writer_->header(header);
    layer_ = base::open(box::sent_directory(paths_), O_RDONLY | O_DIRECTORY);
    for (int round = 0; round < kMostRounds; ++round) {
      Step step(context_.progress, report_.phases, "round " + std::to_string(round));
      box::sync_image(paths_);
      step.bytes = write_tree(Part::kRound, layer_.get(), saved_, {});
      if (step.bytes < kSmallRound) break;
    }
    base::pause_point("checkpoint.rounds");
  }

  /// The box's processes into images on tmpfs, and what was written since the last round into the file.
  /// Afterwards the freezer holds the box.
  void freeze() {
    base::make_directories(paths_.images, 0700);
    base::make_directories(context_.run_dir + "/log", 0700);
    const auto init = box::find_init(group_);
    if (!init) throw base::error("box {} has ended while it was being saved", name_);
    base::check_interrupt();
    box::Dump dump(box::dump_of(paths_, config_, *init));
    gate_.emplace(box::host_end_name(name_));
    Step step(context_.progress, report_.phases, "dump");
    frozen_at_ = Clock::now();
    gate_->shut();
    freeze_quiet(group_);
    require_movable(config_, group_.pids(), *init);  // what has come since the preflight
    wait_for_requests(group_.pids(), paths_.priv);
    base::pause_point("checkpoint.frozen");
    dump.run([&] {
      SendOptions options;
      options.final = true;
      if (box::has_image(paths_))
        box::sync_image(paths_);
      else
        options.mapped(shared_writable_files(group_.pids(), layer_.get()));
      step.bytes = write_tree(Part::kRound, layer_.get(), saved_, std::move(options));
    });
    base::pause_point("checkpoint.dumped");
  }

  /// The images do not change any more, so the box need not wait for the file.
  void thaw() {
    gate_->open();
    group_.thaw();
    report_.freeze_ms = ms_since(*frozen_at_);
    base::pause_point("checkpoint.thawed");
  }

  void images() {
    Step step(context_.progress, report_.phases, "images");
    base::Fd dir = base::open(paths_.images, O_RDONLY | O_DIRECTORY);
    TreeSnapshot nothing;
    step.bytes = write_tree(Part::kImages, dir.get(), nothing, {.final = true});
  }

  /// Before it the file is not there; after it, it is whole and on disk.
  void give_name() {
    Step step(context_.progress, report_.phases, "sync");
    writer_->sign(node_keys(context_),
                  std::format("drover checkpoint of box {}, epoch {}", name_, hello_.config.epoch));
    report_.bytes = writer_->bytes();
    base::pause_point("checkpoint.written");
    base::check_interrupt();
    if (::rename(unfinished_file(file_, hello_.id).c_str(), file_.c_str()) != 0)
      throw base::sys_error("cannot name {}", file_);
    base::fsync_path(directory_of(file_));
    base::pause_point("checkpoint.named");
  }

  /// The box runs, and the file is there.
  void clean_up() {
    base::remove_tree(paths_.images);
    box::end_move(paths_);
    undo_.commit();
  }

  /// The box goes from here, as after a move.
  void forget() {
    // The commit point: from this record on, the box is the file's.
    move_->commit(paths_, box::MoveStep::kGiven, [this] {
      undo_.commit();
      given_ = true;
    });
    base::pause_point("checkpoint.given");
    forget_box(context_, config_, hello_.config.epoch);
  }

  uint64_t write_tree(Part part, int dir, TreeSnapshot& last, SendOptions options) {
    options.check = [] { base::check_interrupt(); };
    options.progress = [this](uint64_t done, uint64_t) { context_.progress.at(done); };
    writer_->begin(part);
    ZstdSink sink(*writer_);
    options.renames = false;
    const TreeStats stats = send_tree(dir, sink, last, options);
    sink.finish();
    return stats.bytes;
  }

  base::Context& context_;
  const bool stop_;
  FileReport& report_;
  const std::string name_;
  const box::Paths paths_;
  const box::Cgroup group_;
  std::string file_;
  Hello hello_;         ///< of the file
  box::Config config_;  ///< as the box has it here
  std::optional<CheckpointWriter> writer_;
  base::Fd layer_;      ///< the private layer, or its image's directory
  TreeSnapshot saved_;  ///< what the file has of the private layer
  std::optional<box::Move> move_;
  std::optional<box::Gate> gate_;
  std::optional<Clock::time_point> frozen_at_;
  bool given_ = false;
  bool lost_ = false;
  base::Undo undo_;
};

}  // namespace

base::Keys node_keys(const base::Context& context) { return base::Keys(context.state_dir + "/node-keys"); }

std::string absolute_path(const std::string& file) {
  std::error_code failed;
  const std::filesystem::path path = std::filesystem::absolute(file, failed);
  if (failed || file == "-")
    throw base::error("'{}' is not the name of a file", file).hint("name one by its path");
  return path.lexically_normal();
}

std::string unfinished_file(const std::string& file, const std::string& id) {
  return directory_of(file) + "/.drover-" + id + ".unfinished";
}

void drop_unfinished_file(const std::string& file, const std::string& id) {
  if (::unlink(unfinished_file(file, id).c_str()) != 0 && errno != ENOENT && errno != ENOTDIR)
    throw base::sys_error("cannot remove {}", unfinished_file(file, id));
}

void checkpoint_box(base::Context& context, const CheckpointRequest& request, FileReport& report) {
  const auto start = Clock::now();
  report.box = request.box;
  const box::Lock lock = box::lock_box(context, request.box);
  box::load_config(context, request.box);
  box::require_no_move(box::paths_of(context, request.box), request.box);

  Saving saving(context, request, report);
  try {
    saving.run(request.file);
  } catch (const std::exception& thrown) {
    base::Error e = base::as_error(thrown);
    if (saving.given() || !saving.roll_back())
      e.exit(base::Exit::kNeedsRecover);
    else if (saving.frozen())
      e.exit(base::Exit::kRolledBack);
    if (saving.lost()) e = with_lost_box(e, request.box);
    throw std::move(e);
  }
  report.outcome = request.stop ? "shelved" : "saved";
  report.total_ms = ms_since(start);
}

}  // namespace migrate
