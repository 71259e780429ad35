#include <CLI/CLI.hpp>
#include <unistd.h>

#include "base/error.h"
#include "bootstrap/console.h"
#include "bootstrap/grow.h"
#include "bootstrap/start.h"
#include "cli/command.h"
#include "cli/nouns.h"
#include "cli/output.h"

namespace cli {
namespace {

void start(const Call& call) {
  // Mounts over /etc and /var: on a system that runs, that would be its end.
  if (::getpid() != 1)
    throw base::error("bootstrap start is process 1 of a node's root, and nothing to run by hand")
        .exit(base::Exit::kUsage);
  bootstrap::as_process_one("this slot cannot be started",
                            [&] { bootstrap::start_node(call.context.runner); });
}

void grow(const Call& call) {
  std::string done = bootstrap::grow(call.context.runner, call.context.state_dir);
  if (!call.json) print(done + "\n");
}

}  // namespace

void add_bootstrap_commands(Commands& commands) {
  commands.add("start", "Make /etc and /var, and start the system (process 1)", start);
  commands.add("grow", "Grow the data partition to its disk", grow);
}

}  // namespace cli
