#pragma once
#include <string>

namespace cli {

/// Where a program keeps its files when its command line does not say it.
struct Places {
  std::string state_dir, run_dir, cache_dir;
};

/// Of the machine: /var/lib/drover, /run/drover, /var/cache/drover.
const Places& system_places();
/// For who runs this process: root has those of the machine, an ordinary user has its own, by the XDG Base
/// Directory Specification 0.8: ~/.local/state/drover, $XDG_RUNTIME_DIR/drover (without one, "run" in the
/// first), ~/.cache/drover.
const Places& own_places();

}  // namespace cli
