#pragma once
#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <set>
#include <utility>

#include "migrate/block_watch.h"
#include "migrate/change_watch.h"
#include "migrate/stream.h"
#include "migrate/tree_snapshot.h"

namespace migrate {

/// How a directory tree (a private layer, CRIU's images) gets to another node:
///
///     sender                               receiver
///     TreeSnapshot last;
///     send_tree(fd, sink, last, …)  ────>  receive_tree(fd, source)    round 0: everything; the box runs
///     send_tree(fd, sink, last, …)  ────>  receive_tree(fd, source)    what changed; as often as it pays
///     send_tree(fd, sink, last,
///               {.final = true})    ────>  receive_tree(fd, source)    the box is frozen: exact
///                                          sync_tree(fd)
///
/// After a final round both trees are the same: every kind of file that a box can make, content,
/// holes, owners, modes, times in nanoseconds, extended attributes, hard links. What is not: inode
/// numbers, ctimes, blocks that were allocated and never written, and of trusted.overlay.* what
/// belongs to one mount only (docs/formats/move-wire.md has the list).
///
/// Each round is one stream, complete in itself: wrap it in a ZstdSink or ZstdSource of its own.

/// Deepest nesting of directories; deeper is an Error that names the directory.
inline constexpr unsigned kMaxTreeDepth = 2048;

struct TreeStats {
  uint64_t entries = 0;  ///< files, directories, links … that were sent or applied
  uint64_t bytes = 0;    ///< content of files, holes not counted
  uint64_t removed = 0;  ///< names taken away (a directory counts once)
  // The sender's alone:
  uint64_t scanned = 0;  ///< names that were looked at: all, or with a watch what may have changed
  uint64_t read = 0;     ///< bytes of content that were read, of which `bytes` differed
  uint64_t dirty = 0;    ///< files that may change unseen: the next round sends them in any case
};

/// Files as stat(2) on the tree tells them: device and inode.
using FileSet = std::set<std::pair<dev_t, ino_t>>;

struct SendOptions {
  /// The box is frozen: whatever still changes or vanishes is an Error.
  bool final = false;
  /// Files to send again though they look unchanged: those that the box maps shared and writable.
  FileSet always = {};
  /// Started before round 0 and given to every round: only what it names is looked at, and what stands in
  /// `always` and `open`. Without it, and whenever it cannot tell, everything is. Access times that only a
  /// read has moved since the last look are then not sent.
  ChangeWatch* watch = nullptr;
  /// With `watch`: what it is blind for (open_files.h). nullopt: not known, so everything is looked at.
  std::optional<FileSet> open = FileSet();
  /// Given to every round: of large files that are written to only what it names is read again. It follows
  /// those that stand in `open`, and those that a round found changed.
  BlockWatch* blocks = nullptr;
  /// `always`, as mapped.h has it: where nobody can tell, everything is looked at.
  void mapped(std::optional<FileSet> files) {
    if (files)
      always = std::move(*files);
    else
      open.reset();
  }
  /// Renames files that the other side has under another name. False: for a stream that older versions read.
  bool renames = true;
  /// Called often; throws to stop the transfer.
  std::function<void()> check = {};
  /// Bytes of content sent so far, and how many there are in this round (a live tree may grow).
  std::function<void(uint64_t done, uint64_t total)> progress = {};
};

/// Sends what differs between `last` (empty: everything) and the tree at `root`, a directory
/// that was opened for reading, and leaves in `last` what the other side has now. After an
/// Error `last` is what it was, and the other side's tree is of no use for further rounds.
///
/// Not final: calls syncfs(2) first, so that a later store through a shared mapping moves the
/// file's ctime again. Files whose ctime is not older than that are `dirty`: stores into pages
/// that were written before would go unseen.
TreeStats send_tree(int root, Sink& sink, TreeSnapshot& last, const SendOptions& options = {});

struct ReceiveOptions {
  std::function<void()> check = {};                   ///< called often; throws to stop
  std::function<void(uint64_t bytes)> progress = {};  ///< content received so far
};

/// Applies one round to `root`, a directory that nothing else uses meanwhile. Round 0 wants it
/// empty. Nothing in the stream is trusted: no record reaches outside `root`, whatever it says.
/// An Error leaves the tree somewhere between the rounds.
TreeStats receive_tree(int root, Source& source, const ReceiveOptions& options = {});

/// All that was received is on disk when it returns (syncfs(2) on its file system).
void sync_tree(int root);

}  // namespace migrate
