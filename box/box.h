#pragma once
#include <sys/types.h>

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "base/context.h"
#include "box/config.h"
#include "box/node.h"

namespace box {

enum class State {
  kStopped,
  kRunning,
  kUnfinished,  ///< a start or stop was cut off; the next start, stop or destroy handles it
  kFrozen,      ///< held by the freezer with no move on record
  kLeaving,     ///< a move from here is under way, or was cut off before its commit point
  kGiven,       ///< another node owns it; `recover` cleans up here
  kArriving,    ///< a move to here, or a restore, is under way, or was cut off
  kSettling,  ///< it has arrived and runs; the rest of its memory, or the last record of it, is still to come
  kSaving,    ///< a checkpoint is being written, or was cut off
};
std::string_view to_string(State state);

struct Status {
  Config config;
  State state;
  pid_t init = 0;    ///< on the node; 0 when it does not run
  std::string peer;  ///< the other node of a move, or the file
};

struct CreateRequest {
  std::string name;
  std::string template_ref;
  std::vector<std::string> addresses;
  std::vector<std::string> gateways;  ///< empty: the node's own, where the box can reach it
  std::string mac;                    ///< empty: made up
  std::string bridge = "br0";
  uint64_t image_bytes = 0;  ///< of a private layer that is an image (volume.h); 0: a directory
};

/// Each of these leaves the box as it was or as it should be, or in a state that `list` shows
/// and the next one handles: also when killed at any step, and with a full disk.
Config create(const base::Context& context, const CreateRequest& request);
void start(const base::Context& context, const std::string& name);
/// The same for a caller that holds the box's lock.
void start_locked(const base::Context& context, const Config& config);
/// Asks the box's init to end, waits for `timeout` (the template's, if absent), then kills.
/// Returns false when it had to kill.
bool stop(const base::Context& context, const std::string& name, std::optional<std::chrono::seconds> timeout);
/// `force` also takes a running one.
void destroy(const base::Context& context, const std::string& name, bool force);

std::vector<Status> list(const base::Context& context);
Status status(const base::Context& context, const std::string& name);
/// The status; throws "box NAME is stopped" and the like when it does not run.
Status require_running(const base::Context& context, const std::string& name);

/// The last `lines` lines of what the box's init wrote; 0: all.
std::string log_tail(const base::Context& context, const std::string& name, size_t lines);

/// Runs a command in the box with our stdin, stdout and stderr; returns its exit status.
int exec(const base::Context& context, const std::string& name, const std::vector<std::string>& argv);

/// 32 hex digits: of a box, of a move, of a checkpoint.
std::string random_id();

/// A box's directory goes, in one step as far as `list` can see.
void remove_box_dir(const base::Context& context, const std::string& dir);
/// Takes away what creations and removals that were cut off left. Takes the node's lock.
void sweep(const base::Context& context);

}  // namespace box
