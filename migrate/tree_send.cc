#include <unistd.h>

#include <optional>

#include "base/error.h"
#include "base/log.h"
#include "migrate/tree.h"
#include "migrate/tree_part.h"
#include "migrate/tree_round.h"
#include "migrate/tree_scan.h"

namespace migrate {
namespace {

/// What the watch has told since `last` was made, with what the caller names; nullopt: look at everything.
std::optional<Changes> changes_since(const TreeSnapshot& last, const SendOptions& options) {
  if (!options.watch) return std::nullopt;
  const bool follows = !last.empty() && last.watched_ == options.watch->taken();
  Changes changes = options.watch->take();
  if (!options.open) base::debug("nobody can tell which files are open or mapped for writing");
  if (!follows || changes.all || !options.open) return std::nullopt;
  for (const auto* files : {&options.always, &*options.open})
    for (auto [device, ino] : *files) changes.files.insert(ino);
  return changes;
}

}  // namespace

TreeStats send_tree(int root, Sink& sink, TreeSnapshot& last, const SendOptions& options) {
  base::Clock clock;
  ScanStart start(clock);
  // Write-protects the pages of shared mappings, so that the next store is seen. A frozen box stores nothing.
  if (!options.final && ::syncfs(root) != 0) throw base::sys_error("cannot bring the tree to disk");
  auto changes = changes_since(last, options);
  TreeStats stats;
  if (changes) {
    TreePart part = look_again(root, last, std::move(*changes), options.final, options.check);
    uint64_t dirty = options.final ? 0 : start.mark_dirty(part.now);
    stats = send_round(root, sink, part.before, part.now, last.contents_, options);
    stats.scanned = part.now.size();
    stats.dirty = dirty;
    put_back(last, part);
  } else {
    TreeSnapshot now = scan_tree(root, options.final, options.check);
    uint64_t dirty = options.final ? 0 : start.mark_dirty(now);
    stats = send_round(root, sink, last, now, last.contents_, options);
    stats.scanned = now.size();
    stats.dirty = dirty;
    now.contents_ = std::move(last.contents_);
    last = std::move(now);
  }
  last.watched_ = options.watch ? options.watch->taken() : 0;
  base::debug("looked at {} names{}, {} differed, {} bytes of content were read", stats.scanned,
              changes ? " that may have changed" : "", stats.entries + stats.removed, stats.read);
  return stats;
}

void sync_tree(int root) {
  if (::syncfs(root) != 0) throw base::sys_error("cannot bring the received tree to disk");
}

}  // namespace migrate
