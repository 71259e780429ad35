#include "box/ownership.h"

#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <format>

#include "base/error.h"
#include "base/fd.h"
#include "base/log.h"

namespace box {
namespace {

constexpr std::array<std::string_view, 7> kStepNames = {"leaving", "given", "arriving", "prepared",
                                                        "mine",    "whole", "saving"};

std::string given_path(const base::Context& context, const std::string& uuid) {
  return context.state_dir + "/given/" + uuid;
}

std::string destroyed_path(const base::Context& context, const std::string& uuid) {
  return context.state_dir + "/destroyed/" + uuid;
}

std::string kept_path(const Paths& paths) { return paths.dir + "/kept.journal"; }

std::optional<Move> move_in(const std::vector<nlohmann::json>& records, const Paths& paths) {
  // An empty journal: the first record was torn, so nothing had been done yet.
  if (records.empty()) return std::nullopt;
  const auto& first = records.front();
  std::string last = records.back().at("step");
  for (size_t i = 0; i < kStepNames.size(); ++i)
    if (kStepNames[i] == last)
      return Move{static_cast<MoveStep>(i), first.at("id"),    first.at("peer"),
                  first.at("rsh"),          first.at("epoch"), first.value("lazy", false)};
  throw base::error("{} names a step '{}' that this version does not know", paths.journal, last)
      .hint("a newer drover-node wrote it: use that one");
}

int64_t now_seconds() {
  return std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch())
      .count();
}

}  // namespace

std::string_view to_string(MoveStep step) { return kStepNames.at(static_cast<size_t>(step)); }

void Move::advance(const Paths& paths, MoveStep next) {
  base::Journal::open(paths.journal).append({{"step", to_string(next)}, {"time", now_seconds()}});
  step = next;
}

void Move::commit(const Paths& paths, MoveStep next, const std::function<void()>& committed) {
  try {
    advance(paths, next);
  } catch (base::Error& e) {
    bool written = true;  // a journal that cannot be read may hold it
    try {
      auto found = find_move(paths);
      written = !found || found->step == next;
    } catch (const base::Error& unreadable) {
      base::warn("{}", unreadable.message());
    }
    if (!written) throw;
    committed();
    throw std::move(e)
        .hint("look at the disk, then run `drover-node recover` here")
        .exit(base::Exit::kNeedsRecover);
  }
  committed();
}

Move begin_move(const Paths& paths, MoveStep first, std::string id, std::string peer,
                std::vector<std::string> rsh, uint64_t epoch, bool lazy) {
  base::Journal journal = base::Journal::open(paths.journal);
  if (!journal.records().empty()) throw base::error("{} is in use by another move", paths.journal);
  journal.append({{"step", to_string(first)},
                  {"time", now_seconds()},
                  {"id", id},
                  {"peer", peer},
                  {"rsh", rsh},
                  {"epoch", epoch},
                  {"lazy", lazy}});
  return {first, std::move(id), std::move(peer), std::move(rsh), epoch, lazy};
}

std::optional<Move> find_move(const Paths& paths) {
  return move_in(base::Journal::read(paths.journal), paths);
}

std::optional<Move> find_move_on_disk(const Paths& paths) {
  if (!base::exists(paths.journal)) return std::nullopt;
  return move_in(base::Journal::open(paths.journal).records(), paths);
}

void end_kept_move(const Paths& paths) {
  if (::rename(paths.journal.c_str(), kept_path(paths).c_str()) != 0 && errno != ENOENT)
    throw base::sys_error("cannot rename {}", paths.journal);
  base::fsync_path(paths.dir);
}

void end_move(const Paths& paths) {
  if (::unlink(paths.journal.c_str()) != 0 && errno != ENOENT)
    throw base::sys_error("cannot remove {}", paths.journal);
  base::fsync_path(paths.dir);
}

void require_no_move(const Paths& paths, std::string_view name) {
  auto move = find_move(paths);
  if (!move) return;
  if (move->step == MoveStep::kGiven)
    throw base::error("box {} was given to {}: this node must not touch it", name, move->peer)
        .hint("`drover-node recover` cleans up what is left of it here");
  if (move->with_file())
    throw base::error("box {} is being {} {}, and that is not finished", name,
                      move->step == MoveStep::kSaving ? "saved to" : "restored from", move->peer)
        .hint("wait for it; if its command was killed, run `drover-node recover`");
  throw base::error("a move of box {} between this node and {} is not finished", name, move->peer)
      .hint("wait for it; if its command was killed, run `drover-node recover`");
}

void remember_given(const base::Context& context, const Config& config, uint64_t epoch,
                    std::string_view move) {
  base::make_directories(context.state_dir + "/given", 0700);
  base::write_file_atomically(given_path(context, config.uuid), std::format("{} {}\n", epoch, move), 0600);
}

std::optional<uint64_t> given_epoch(const base::Context& context, const Config& config) {
  auto text = base::read_file_if_exists(given_path(context, config.uuid));
  if (!text) return std::nullopt;
  return std::stoull(*text);
}

void remember_destroyed(const base::Context& context, const Paths& paths, const Config& config) {
  if (config.last_move.empty() && !base::exists(kept_path(paths))) return;
  const std::string directory = context.state_dir + "/destroyed",
                    record = destroyed_path(context, config.uuid);
  base::make_directories(directory, 0700);
  // One that is there already is of a removal that was cut off.
  if (::unlink(record.c_str()) != 0 && errno != ENOENT) throw base::sys_error("cannot remove {}", record);
  if (::link(paths.config.c_str(), record.c_str()) != 0) throw base::sys_error("cannot create {}", record);
  base::fsync_path(directory);
}

std::optional<Parting> last_parting(const base::Context& context, const std::string& uuid) {
  std::optional<Parting> last;
  if (auto text = base::read_file_if_exists(given_path(context, uuid))) {
    const size_t space = text->find(' ');
    if (space == std::string::npos || !text->ends_with('\n'))
      throw base::error("{} does not say in which move the box was given away", given_path(context, uuid));
    last = {std::stoull(*text) - 1, text->substr(space + 1, text->size() - space - 2)};
  }
  if (auto text = base::read_file_if_exists(destroyed_path(context, uuid)))
    if (const uint64_t epoch = Config::parse(*text).epoch; !last || epoch > last->epoch) last = {epoch, ""};
  return last;
}

}  // namespace box
