#include "box/dump.h"

#include <criu/criu.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include <format>
#include <fstream>
#include <future>
#include <optional>
#include <set>
#include <vector>

#include "base/error.h"
#include "base/fd.h"
#include "box/cgroup.h"
#include "box/cgroup_tree.h"
#include "box/criu_child.h"
#include "box/criu_options.h"
#include "box/criu_part.h"
#include "box/criu_programs.h"
#include "box/last_pid.h"
#include "box/lazy_memory.h"
#include "box/net_state.h"
#include "box/netns.h"
#include "box/network.h"
#include "box/runtime.h"

namespace box {
namespace {

/// A socket whose other end is closed.
base::Fd closed_socket() {
  int pair[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0)
    throw base::sys_error("cannot make a socket");
  base::Fd far(pair[1]);
  return base::Fd(pair[0]);
}

/// Whether two ends of one TCP connection are in the box: then the table has it from both sides
/// (/proc/net/tcp of proc_net_tcp.txt: sl, local, remote, state, …).
bool has_inner_connections(pid_t init) {
  for (const char* table : {"tcp", "tcp6"}) {
    std::ifstream in(std::format("/proc/{}/net/{}", init, table));
    std::set<std::string> ends;
    std::string slot, local, remote, rest;
    std::getline(in, rest);  // the heading
    while (in >> slot >> local >> remote && std::getline(in, rest)) {
      if (ends.contains(remote + ' ' + local)) return true;
      ends.insert(local + ' ' + remote);
    }
  }
  return false;
}

/// What it needs to know of the box in the end, in CriuChild::run()'s byte.
constexpr char kOurNetwork = 1, kInnerConnections = 2;

}  // namespace

DumpRequest dump_of(const Paths& paths, const Config& config, pid_t init) {
  return {.init = init,
          .images = paths.images,
          .work = paths.run,
          .log = paths.criu_log,
          .root = paths.root,
          .cgroup = paths.cgroup,
          .host_end = host_end_name(config.name),
          .lock = paths.criu_lock,
          .id_base = config.id_base,
          .own_groups = config.start.control_groups};
}

struct Dump::State {
  explicit State(DumpRequest wanted)
      : request(std::move(wanted)),
        images(base::open(request.images, O_RDONLY | O_DIRECTORY)),
        work(base::open(request.work, O_RDONLY | O_DIRECTORY)),
        nobody(request.lazy ? closed_socket() : base::Fd()),
        config("log-file " + request.log + "\n" +
               (request.lazy ? std::format("lazy-pages\nps-socket {}\n", nobody.get()) : "")),
        lazy(request.lazy) {
    start();
  }

  void start() {
    old_iptables = has_old_iptables(group.pids());
    programs = old_iptables ? CriuPrograms{} : without_iptables();
    child.emplace(CriuWork{.what = "freeze the box into images",
                           .log = request.log,
                           .lock = request.lock,
                           .halts = {&halt, 1},
                           .prepare = [this] { start_in_child(); },
                           .request = [this](char told) { return dump_in_child(told); }});
  }

  void run() {
    const std::vector<pid_t> pids = group.pids();
    if (has_old_iptables(pids) != old_iptables) {  // it has made some meanwhile
      child.reset();
      start();
    }
    netns = netns_of(request.init);
    auto recorded = std::async(std::launch::async, [&] { return NetState::record(pids, netns.get()); });
    auto inner = std::async(std::launch::async, [&] { return has_inner_connections(request.init); });
    if (request.own_groups)
      base::write_file(request.images + kGroups, CgroupTree::record(group, request.id_base).render());
    record_last_pid(request.images, request.init);
    lazy.choose(processes_of(group));
    network = recorded.get();
    if (network)
      settings =
          std::async(std::launch::async, [&] { return read_net_settings(netns.get(), request.id_base); });
    child->run(static_cast<char>((network ? kOurNetwork : 0) | (inner.get() ? kInnerConnections : 0)));
  }

  void post_dump() {
    lazy.write(images.get());
    if (network) {
      network->settings = settings.get();
      base::write_file(request.images + kNetwork, network->render());
    }
    when_dumped();
  }

  void start_in_child() {
    if (nobody) ::fcntl(nobody.get(), F_SETFD, 0);
    programs.use();
    part.use();
    lazy.use();
    service = start_criu(programs.criu);
  }

  int dump_in_child(char told) const {
    Options options = make_options(programs.criu);
    criu_opts* o = options.get();
    criu_local_set_service_fd(o, service);
    set_common(o, images.get(), work.get(), config);
    // Frames cannot reach the box, its cable is shut. What two of its own processes have between
    // them is kept still by CRIU, which costs it 12 ms. (Its default runs iptables programs, at tens
    // of milliseconds each.)
    criu_local_set_network_lock(
        o, (told & kInnerConnections) != 0 ? CRIU_NETWORK_LOCK_NFTABLES : CRIU_NETWORK_LOCK_SKIP);
    criu_local_set_notify_cb(o, [](char* action, criu_notify_arg_t) { return on_notify(action); });
    criu_local_set_pid(o, request.init);
    criu_local_set_freeze_cgroup(o, request.cgroup.c_str());
    // The freezer holds the box, not CRIU: so no process needs to live for the box to stay frozen.
    criu_local_set_leave_running(o, true);
    // A handshake that is under way is dropped; its client tries again by itself.
    criu_local_set_tcp_skip_in_flight(o, true);
    criu_local_set_ghost_limit(o, kMostGhostBytes);
    if ((told & kOurNetwork) != 0)
      criu_local_set_empty_ns(o, CLONE_NEWNET);
    else
      criu_local_add_external(o, ("veth[eth0]:" + request.host_end).c_str());
    for (const char* device : kDevices)
      criu_local_add_external(o, (std::string("mnt[/dev/") + device + "]:dev-" + device).c_str());
    if (request.own_groups) criu_local_add_external(o, "mnt[/sys/fs/cgroup]:cgroup");
    const int done = criu_local_dump(o);
    while (::wait(nullptr) > 0 || errno == EINTR) {
    }
    return done;
  }

  const DumpRequest request;
  const Cgroup group{request.cgroup};
  const base::Fd images, work;
  // After a lazy dump CRIU serves the memory, on a connection of which nobody has the other end:
  // so it ends at once. We read the memory from the frozen processes.
  const base::Fd nobody;
  const ConfigFile config;
  const CriuPart part;
  LazyMemory lazy;
  base::Fd netns;
  bool old_iptables = false;
  CriuPrograms programs;
  std::function<void()> when_dumped;
  std::optional<NetState> network;
  std::future<NetSettings> settings;  // some 600 files, read beside the dump
  const Halt halt{"post-dump", [this] { post_dump(); }};
  int service = -1;  ///< in the child
  std::optional<CriuChild> child;
};

Dump::Dump(DumpRequest request) : state_(std::make_unique<State>(std::move(request))) {}
Dump::~Dump() = default;

void Dump::run(std::function<void()> when_dumped) {
  state_->when_dumped = std::move(when_dumped);
  state_->run();
}

}  // namespace box
