#include "box/dump.h"

#include <fcntl.h>
#include <sys/socket.h>

#include <format>
#include <fstream>
#include <future>
#include <optional>
#include <set>
#include <vector>

#include "base/context.h"
#include "base/error.h"
#include "base/fd.h"
#include "box/cgroup.h"
#include "box/cgroup_tree.h"
#include "box/criu.h"
#include "box/criu_child.h"
#include "box/criu_part.h"
#include "box/criu_programs.h"
#include "box/images.h"
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

// A box that stands frozen for so long with CRIU asleep is better off without it, though CRIU may take it
// along (docs/decisions/0005).
constexpr auto kPatience = std::chrono::seconds(30);

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
          .own_groups = config.start.control_groups,
          .check = base::check_interrupt};
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
                           .request = [this](char told) { return dump_in_child(told); },
                           .check = request.check,
                           .patience = kPatience});
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
    // CRIU has let the group go for its own work, and holds the tasks itself: were it killed, they would run,
    // with connections in repair mode, of which a read fails.
    group.freeze();
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
    CriuDump dump = {{.service = service,
                      .images = images.get(),
                      .work = work.get(),
                      .config = config,
                      .no_network = (told & kOurNetwork) != 0,
                      .external = {}},
                     request.init,
                     request.cgroup,
                     (told & kInnerConnections) != 0};
    if (!dump.no_network) dump.external.push_back("veth[eth0]:" + request.host_end);
    for (const char* device : kDevices) dump.external.push_back(std::format("mnt[/dev/{0}]:dev-{0}", device));
    if (request.own_groups) dump.external.emplace_back("mnt[/sys/fs/cgroup]:cgroup");
    return box::request(dump);
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
