#include "box/restore.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <format>
#include <functional>
#include <future>
#include <optional>

#include "base/error.h"
#include "base/fd.h"
#include "base/pause.h"
#include "box/cgroup.h"
#include "box/cgroup_tree.h"
#include "box/criu.h"
#include "box/criu_child.h"
#include "box/criu_part.h"
#include "box/criu_programs.h"
#include "box/images.h"
#include "box/last_pid.h"
#include "box/net_state.h"
#include "box/netns.h"
#include "box/network.h"
#include "box/runtime.h"

namespace box {
namespace {

/// Runs `request` in a process of the group, which this process, of one thread, is not in.
int in_group(const Cgroup& group, const std::function<int()>& request) {
  const pid_t parent = ::getpid(), child = group.fork_into();
  if (child < 0) {
    group.join(parent);
    return request();
  }
  if (child == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    ::_exit(::getppid() == parent && request() >= 0 ? 0 : 1);
  }
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return status == 0 ? 0 : -1;
}

}  // namespace

RestoreRequest restore_of(const Paths& paths, const Config& config) {
  return {.images = paths.images,
          .work = paths.run,
          .log = paths.criu_log,
          .root = paths.root,
          .cgroup = paths.cgroup,
          .config = config,
          .lock = paths.criu_lock};
}

pid_t restore(const RestoreRequest& request) {
  base::Fd images = base::open(request.images, O_RDONLY | O_DIRECTORY);
  base::Fd work = base::open(request.work, O_RDONLY | O_DIRECTORY);
  forget_link_state(images.get());
  keep_timers_armed(images.get());
  open_executables(images.get());
  const Config& box = request.config;
  share_images(images.get(), box.id_base);
  const Cgroup group(request.cgroup);
  const bool own_groups = box.start.control_groups;
  std::optional<CgroupTree> groups;
  if (own_groups) {
    groups = CgroupTree::parse(base::read_file(request.images + kGroups));
    groups->make(group, box.id_base);
  }
  std::optional<NetState> network;
  std::future<void> plugged;
  const auto plug_in = [&] { plugged = std::async(std::launch::async, [&] { plug_in_cable(box); }); };
  // Last: where CRIU fails, they are waited for before what they use goes.
  std::future<void> evicted, furnished;
  if (const auto text = base::read_file_if_exists(request.images + kNetwork)) {
    network = NetState::parse(*text);
  } else {
    make_cable(box);  // CRIU takes its other end
    plug_in();
  }
  // From its process 1 on the box's tasks are born in its group, and CRIU need not be there any more. To
  // leave takes as long as the kernel needs to know that nobody forks: 15 ms, in which CRIU can work.
  const std::array<Halt, 4> halts{{
      {"setup-namespaces",
       [&] {
         evicted = std::async(std::launch::async, [&] { evict_ours(group); });
         if (!network) return;
         // Beside CRIU's mounts.
         furnished = std::async(std::launch::async, [&, netns = netns_of(find_init(group).value())] {
           make_cable(box, Inside{netns.get(), network->eth0.index, network->eth0.mac});
           plug_in();
           network->put_into(netns.get(), box.id_base);
         });
       }},
      // What CRIU restores from here on may need the network: a connection needs a route.
      {"post-setup-namespaces",
       [&] {
         if (furnished.valid()) furnished.get();
         base::pause_point("destination.network");
       }},
      // The last one at which CRIU can be told that the restore has failed.
      {"post-restore", [&] { plugged.get(); }},
      // Everything is restored and each task stands, traced, at its last system call of CRIU's. When CRIU
      // lets go, the freezer has them.
      {"pre-resume",
       [&] {
         if (evicted.valid()) evicted.get();
         evict_ours(group);
         if (groups) groups->place(group);
         group.freeze();
       }},
  }};
  const ConfigFile config("log-file " + request.log + "\n" + (request.lazy ? "lazy-pages\n" : ""));
  const CriuPrograms programs = has_old_iptables(request.images) ? CriuPrograms{} : without_iptables();
  const CriuPart part;
  const auto in_child = [&] {
    // What CRIU restores is born into its own group and cgroup namespace: the box's.
    if (::unshare(CLONE_NEWCGROUP) != 0) return -1;
    programs.use();
    part.use();
    CriuRestore restore = {{.service = start_criu(programs.criu),
                            .images = images.get(),
                            .work = work.get(),
                            .config = config,
                            .no_network = network.has_value(),
                            .external = {}},
                           request.root,
                           request.close_connections};
    if (!network) restore.external.push_back("netdev[eth0]:" + other_end_name(box.name));
    for (const char* device : kDevices)
      restore.external.push_back(std::format("mnt[dev-{0}]:/dev/{0}", device));
    // A mount of its own needs a cgroup namespace that the box's user namespace owns, and CRIU cannot make
    // one here. This is the same file system from the same group downwards.
    if (own_groups) restore.external.push_back("mnt[cgroup]:" + request.cgroup);
    return box::request(restore);
  };
  CriuChild({.what = "restore the box from images",
             .log = request.log,
             .lock = request.lock,
             .halts = halts,
             .prepare = {},
             .request = [&](char) { return in_group(group, in_child); },
             .check = request.check})
      .run(0);
  auto init = find_init(group);
  if (!init) throw base::error("CRIU restored the box, but its process 1 is not there");
  // What CRIU does not carry over.
  use_plain_tcp(netns_of(*init).get());
  restore_last_pid(request.images, *init);
  return *init;
}

}  // namespace box
