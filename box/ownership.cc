#include "box/ownership.h"

#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <format>

#include "base/error.h"
#include "base/fd.h"

namespace box {
namespace {

constexpr std::array<std::string_view, 5> kStepNames = {"leaving", "given", "arriving", "prepared", "mine"};

std::string given_path(const base::Context& context, const Config& config) {
  return context.state_dir + "/given/" + config.uuid;
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

Move begin_move(const Paths& paths, MoveStep first, std::string id, std::string peer,
                std::vector<std::string> rsh, uint64_t epoch) {
  base::Journal journal = base::Journal::open(paths.journal);
  if (!journal.records().empty()) throw base::error("{} is in use by another move", paths.journal);
  journal.append({{"step", to_string(first)},
                  {"time", now_seconds()},
                  {"id", id},
                  {"peer", peer},
                  {"rsh", rsh},
                  {"epoch", epoch}});
  return {first, std::move(id), std::move(peer), std::move(rsh), epoch};
}

std::optional<Move> find_move(const Paths& paths) {
  if (!base::exists(paths.journal)) return std::nullopt;
  base::Journal journal = base::Journal::open(paths.journal);
  // An empty journal: the first record was torn, so nothing had been done yet.
  if (journal.records().empty()) return std::nullopt;
  const auto& first = journal.records().front();
  std::string last = journal.records().back().at("step");
  for (size_t i = 0; i < kStepNames.size(); ++i)
    if (kStepNames[i] == last)
      return Move{static_cast<MoveStep>(i), first.at("id"), first.at("peer"), first.at("rsh"),
                  first.at("epoch")};
  throw base::error("{} names a step '{}' that this version does not know", paths.journal, last)
      .hint("a newer drover-node wrote it: use that one");
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
  throw base::error("a move of box {} between this node and {} is not finished", name, move->peer)
      .hint("wait for it; if its command was killed, run `drover-node recover`");
}

void remember_given(const base::Context& context, const Config& config, uint64_t epoch) {
  base::make_directories(context.state_dir + "/given", 0700);
  base::write_file_atomically(given_path(context, config), std::to_string(epoch) + "\n", 0600);
}

std::optional<uint64_t> given_epoch(const base::Context& context, const Config& config) {
  auto text = base::read_file_if_exists(given_path(context, config));
  if (!text) return std::nullopt;
  return std::stoull(*text);
}

}  // namespace box
