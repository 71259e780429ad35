#pragma once
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/context.h"
#include "base/fd.h"
#include "box/config.h"

namespace box {

/// Where one box's things lie on this node (docs/formats/box.md).
struct Paths {
  std::string dir;         ///< STATE/boxes/NAME, or STATE/arriving/NAME until the box is this node's
  std::string config;      ///< box.json
  std::string priv;        ///< private: the private layer with its work directory
  std::string upper;       ///< private/upper
  std::string volume;      ///< volume: its directory, of a private layer that is an image; else absent
  std::string journal;     ///< move.journal: there while a move is not finished
  std::string run;         ///< RUN/boxes/NAME: what a reboot takes away
  std::string root;        ///< where the box's root file system is mounted
  std::string images;      ///< CRIU's images during a move; on tmpfs
  std::string criu_log;    ///< RUN/log/NAME.criu.log: of the last dump or restore; kept until a reboot
  std::string criu_lock;   ///< held by CRIU while it works on the box
  std::string pager_lock;  ///< held while memory of the box is on its way here
  std::string started;     ///< there once process 1 has been let go
  std::string cgroup;      ///< /sys/fs/cgroup/drover/NAME
};

Paths paths_of(const base::Context& context, std::string_view name);
/// The same for a box that is on its way here.
Paths arriving_paths_of(const base::Context& context, std::string_view name);

/// Makes `paths.run`, which the box's own ids must be able to pass through.
void make_run_directory(const base::Context& context, const Paths& paths);

/// Held while a box is changed; one holder at a time on this node. Gone with its process.
class [[nodiscard]] Lock {
 public:
  explicit Lock(base::Fd fd) : fd_(std::move(fd)) {}

 private:
  base::Fd fd_;
};
/// Throws "box web1 is busy: …" when another command holds it, and goes on to hold it for a second.
Lock lock_box(const base::Context& context, std::string_view name);
std::optional<Lock> try_lock_box(const base::Context& context, std::string_view name);
/// For the moment in which a new box's name, addresses and ids are chosen; waits its turn.
Lock lock_node(const base::Context& context);

/// For the moment in which layers are mounted or unmounted; waits its turn.
Lock lock_layers(const base::Context& context);

/// Names of all boxes in STATE/boxes or STATE/arriving, sorted.
std::vector<std::string> box_names(const base::Context& context);
std::vector<std::string> arriving_names(const base::Context& context);
/// None where a box has only just begun to arrive. A damaged one's Error names the file.
std::optional<Config> find_config(const Paths& paths);
std::optional<Config> find_config(const base::Context& context, std::string_view name);
/// Of all boxes in both, those that are on their way here included.
std::vector<Config> all_configs(const base::Context& context);
/// Throws "there is no box NAME on this node" with a hint.
Config load_config(const base::Context& context, std::string_view name);
void save_config(const Paths& paths, const Config& config);

/// The first id of the range for a new box: from its name, so that it is likely to be free on
/// every node, and the next free one where it is not.
uint32_t choose_id_base(const base::Context& context, std::string_view name);

}  // namespace box
