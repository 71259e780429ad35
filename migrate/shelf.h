#pragma once
#include <string>

#include "base/context.h"
#include "base/sign.h"
#include "box/ownership.h"
#include "migrate/report.h"

namespace migrate {

/// A box in a file: `box checkpoint` puts it there, `box restore` makes a running box of it again, on this
/// node or another one (docs/formats/checkpoint-file.md, docs/decisions/0006).
///
///     checkpoint    journal: saving                                 (--stop) given
///                   Preflight ─ Rounds ─ Freeze ┬──── Images ─ Name ─────────────┬ Forget
///                   box runs ───────────┤frozen ├ runs ──────────────────────────┤
///                                       │       └ (--stop) frozen ─── COMMIT ────┤ it is in the file only
///
///     restore       journal:         arriving                   mine
///                   Verify ─ Inspect ─ Arrive ─ Receive ─ Restore ─ COMMIT ─ take over, as after a move
///
/// Until the commit point every failure ends with the box as it was before the command.

struct CheckpointRequest {
  std::string box;
  std::string file;   ///< replaced when it exists; it is there whole, or not at all
  bool stop = false;  ///< afterwards the box is in the file and nowhere else
};
void checkpoint_box(base::Context& context, const CheckpointRequest& request, FileReport& report);

struct RestoreFileRequest {
  std::string file;
  bool force = false;  ///< also when this node has given a newer box away
};
void restore_box(base::Context& context, const RestoreFileRequest& request, FileReport& report);

/// STATE/node-keys: whose checkpoints are restored here. They are not the keys of templates: whoever signs a
/// template decides what runs in boxes, whoever signs a checkpoint what runs as root on the node.
base::Keys node_keys(const base::Context& context);

/// Throws where FILE is no file's name.
std::string absolute_path(const std::string& file);
/// Where the file is written before it gets its name; `recover` removes what is left of it.
std::string unfinished_file(const std::string& file, const std::string& id);
void drop_unfinished_file(const std::string& file, const std::string& id);

}  // namespace migrate
