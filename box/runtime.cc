#include "box/runtime.h"

#include <fcntl.h>
#include <sys/mount.h>
#include <unistd.h>

#include "base/error.h"
#include "base/log.h"
#include "base/mount.h"
#include "box/cgroup.h"
#include "box/firewall.h"
#include "box/rootfs.h"

namespace box {

void set_up_outside(const base::Context& context, const Config& config, const Paths& paths) {
  mount_root(context, config, paths);
  Cgroup(paths.cgroup).create_for_box();
}

void make_cable(const Config& config, const std::optional<Inside>& inside) {
  create_veth(host_end_name(config.name), inside ? "eth0" : other_end_name(config.name),
              bridge_mtu(config.bridge), inside);
}

void plug_in_cable(const Config& config) {
  const std::string host_end = host_end_name(config.name);
  load_firewall(host_end, config.mac, config.addresses);
  attach_to_bridge(host_end, config.bridge);
  set_up(host_end);
}

base::Fd netns_of(pid_t init) { return base::open("/proc/" + std::to_string(init) + "/ns/net", O_RDONLY); }

void open_network(const Config& config) {
  open_firewall(host_end_name(config.name), config.mac, config.addresses);
}

void await_carrier(const Config& config, int netns_fd) {
  if (!wait_for_carrier(host_end_name(config.name), netns_fd, std::chrono::seconds(1)))
    base::warn("the cable of box {} has no carrier yet: the network may learn late where the box is",
               config.name);
}

void tear_down(const base::Context& context, const Paths& paths, std::string_view name) {
  Cgroup(paths.cgroup).kill_and_remove();
  const std::string host_end = host_end_name(name);
  delete_link(host_end);
  remove_firewall(host_end);
  unmount_root(context, paths);
  base::remove_tree(context.run_dir + "/crun/" + std::string(name));
  base::remove_tree(paths.run);
}

}  // namespace box
