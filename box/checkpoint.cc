#include "box/checkpoint.h"

#include <criu/criu.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <format>
#include <fstream>
#include <future>
#include <memory>
#include <set>
#include <span>
#include <sstream>

#include "base/error.h"
#include "base/fd.h"
#include "base/pause.h"
#include "box/cgroup_tree.h"
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

// The devices that crun binds into a box from the node: CRIU takes them out by path and puts
// the other node's in.
constexpr const char* kDevices[] = {"null", "zero", "full", "tty", "random", "urandom"};

// Beside CRIU's images: the control groups of a box that divides its own (docs/formats/box-images.md).
constexpr const char* kGroups = "/groups.json";
// Likewise, a network namespace that CRIU leaves to us (docs/formats/box-network.md).
constexpr const char* kNetwork = "/network.json";

struct Freer {
  void operator()(criu_opts* o) const { criu_local_free_opts(o); }
};
using Options = std::unique_ptr<criu_opts, Freer>;

Options make_options(const std::string& program = "criu") {
  criu_opts* raw = nullptr;
  if (criu_local_init_opts(&raw) != 0) throw base::error("libcriu has no memory");
  Options o(raw);
  criu_local_set_service_binary(raw, program.c_str());
  return o;
}

/// Options that libcriu 4.2 has no call for go through a configuration file (criu(8)), here one
/// in memory.
class ConfigFile {
 public:
  explicit ConfigFile(const std::string& text) : fd_(::memfd_create("criu.conf", MFD_CLOEXEC)) {
    if (!fd_) throw base::sys_error("cannot make a memory file");
    base::write_full(fd_.get(), text, "CRIU's configuration");
    path_ = std::format("/proc/{}/fd/{}", ::getpid(), fd_.get());
  }
  [[nodiscard]] const char* path() const { return path_.c_str(); }

 private:
  base::Fd fd_;
  std::string path_;
};

/// What dump and restore have in common. `config` lives as long as the request.
void set_common(criu_opts* o, int images, int work, const ConfigFile& config) {
  criu_local_set_images_dir_fd(o, images);
  criu_local_set_work_dir_fd(o, work);
  if (criu_local_set_config_file(o, config.path()) != 0) throw base::error("libcriu has no memory");
  criu_local_set_log_level(o, CRIU_LOG_INFO);
  criu_local_set_tcp_established(o, true);
  criu_local_set_file_locks(o, true);
  criu_local_set_link_remap(o, true);
  criu_local_set_orphan_pts_master(o, true);
  // The box's group is ours to make: CRIU would recreate its path in every hierarchy of
  // version 1 as well, and leave it there.
  criu_local_set_manage_cgroups(o, true);
  criu_local_set_manage_cgroups_mode(o, CRIU_CG_MODE_IGNORE);
}

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

RestoreRequest restore_of(const Paths& paths, const Config& config) {
  return {.images = paths.images,
          .work = paths.run,
          .log = paths.criu_log,
          .root = paths.root,
          .cgroup = paths.cgroup,
          .config = config,
          .lock = paths.criu_lock};
}

std::string criu_version() {
  Options o = make_options();
  int v = criu_local_get_version(o.get());  // 40201 for 4.2.1
  if (v < 0)
    throw base::error("CRIU does not run on this node")
        .hint("`criu check` tells what is missing; is it installed?");
  return std::to_string(v / 10000) + "." + std::to_string(v / 100 % 100) + "." + std::to_string(v % 100);
}

bool can_restore_lazily() {
  Options o = make_options();
  struct criu_feature_check wanted{.mem_track = true, .lazy_pages = true, .pidfd_store = true};
  // As a side effect CRIU keeps what it has found out about the kernel (/run/criu.kdat): a dump or
  // restore that finds nothing there probes for it, 30 to 40 ms long, while the box is frozen.
  if (criu_local_feature_check(o.get(), &wanted, sizeof wanted) < 0) return false;
  return wanted.lazy_pages;
}

/// What it needs to know of the box in the end, in CriuChild::run()'s byte.
constexpr char kOurNetwork = 1, kInnerConnections = 2;

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
  std::future<void> evicted, furnished, plugged;
  const auto plug_in = [&] { plugged = std::async(std::launch::async, [&] { plug_in_cable(box); }); };
  std::optional<NetState> network;
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
  const auto restore = [&] {
    // What CRIU restores is born into its own group and cgroup namespace: the box's.
    if (::unshare(CLONE_NEWCGROUP) != 0) return -1;
    programs.use();
    part.use();
    Options options = make_options(programs.criu);
    criu_opts* o = options.get();
    set_common(o, images.get(), work.get(), config);
    // All sockets exist when CRIU ends its repair of them, and the cable is shut: nothing to lock out.
    criu_local_set_network_lock(o, CRIU_NETWORK_LOCK_SKIP);
    criu_local_set_root(o, request.root.c_str());
    criu_local_set_tcp_close(o, request.close_connections);
    criu_local_set_notify_cb(o, [](char* action, criu_notify_arg_t) { return on_notify(action); });
    if (network)
      criu_local_set_empty_ns(o, CLONE_NEWNET);
    else
      criu_local_add_external(o, ("netdev[eth0]:" + other_end_name(box.name)).c_str());
    for (const char* device : kDevices)
      criu_local_add_external(o, (std::string("mnt[dev-") + device + "]:/dev/" + device).c_str());
    // A mount of its own needs a cgroup namespace that the box's user namespace owns, and CRIU cannot make
    // one here. This is the same file system from the same group downwards.
    if (own_groups) criu_local_add_external(o, ("mnt[cgroup]:" + request.cgroup).c_str());
    return criu_local_restore(o);
  };
  CriuChild({.what = "restore the box from images",
             .log = request.log,
             .lock = request.lock,
             .halts = halts,
             .prepare = {},
             .request = [&](char) { return in_group(group, restore); }})
      .run(0);
  auto init = find_init(group);
  if (!init) throw base::error("CRIU restored the box, but its process 1 is not there");
  // What CRIU does not carry over.
  use_plain_tcp(netns_of(*init).get());
  restore_last_pid(request.images, *init);
  return *init;
}

void wait_for_criu(const std::string& lock) {
  if (!base::exists(lock)) return;
  base::Fd fd = base::open(lock, O_RDWR);
  for (auto deadline = std::chrono::steady_clock::now() + std::chrono::minutes(1);
       ::flock(fd.get(), LOCK_EX | LOCK_NB) != 0; ::usleep(5000))
    if (std::chrono::steady_clock::now() > deadline)
      throw base::error("CRIU has been working on the box for a minute, and does not end")
          .hint("`fuser " + lock + "` names its process; look what it waits for before you end it");
}

}  // namespace box
