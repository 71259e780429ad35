#include "box/box.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <random>
#include <sstream>

#include "base/error.h"
#include "base/log.h"
#include "base/undo.h"
#include "box/announce.h"
#include "box/cgroup.h"
#include "box/claims.h"
#include "box/container.h"
#include "box/firewall.h"
#include "box/netns.h"
#include "box/network.h"
#include "box/ownership.h"
#include "box/rootfs.h"
#include "box/runtime.h"
#include "box/volume.h"
#include "templates/store.h"

namespace box {
namespace {

/// Takes away what creations and removals that were cut off left. The caller holds the node's
/// lock, so no creation is under way.
void sweep_locked(const base::Context& context) {
  const std::string dir = context.state_dir + "/boxes";
  std::vector<std::string> left;
  if (DIR* d = ::opendir(dir.c_str())) {
    while (const dirent* e = ::readdir(d)) {
      const std::string_view entry = e->d_name;
      if (entry.starts_with(".gone-") || entry.starts_with(".new-")) left.emplace_back(entry);
    }
    ::closedir(d);
  }
  for (const auto& entry : left) base::remove_tree(dir + "/" + entry);
}

/// The addresses as asked for; one without a prefix length gets that of the bridge's network.
std::vector<Address> choose_addresses(const CreateRequest& request) {
  if (request.addresses.empty())
    throw base::error("box {} needs an address", request.name)
        .hint("--ip 192.0.2.10/24, and again for each more");
  std::vector<Address> out;
  const auto networks = bridge_addresses(request.bridge);
  for (const auto& text : request.addresses) {
    Address address = Address::parse(text);
    if (!address.prefix) {
      auto net = std::ranges::find_if(networks, [&](const Address& n) { return n.contains(address); });
      if (net == networks.end())
        throw base::error("{} lies in no network of {}, so its prefix length is not known", text,
                          request.bridge)
            .hint("write it with the address: --ip " + text + (address.is_v4() ? "/24" : "/64"));
      address = address.with_prefix(*net->prefix);
    }
    for (const auto& other : out)
      if (other.same_host(address))
        throw base::error("address {} is named twice", address.host()).hint("leave one of them out");
    out.push_back(address);
  }
  return out;
}

std::vector<Address> choose_gateways(const CreateRequest& request, const std::vector<Address>& addresses) {
  auto reachable = [&](const Address& gateway) {
    return std::ranges::any_of(addresses, [&](const Address& a) { return a.contains(gateway); });
  };
  std::vector<Address> out;
  auto same_family = [&](const Address& gateway) {
    return std::ranges::find(out, gateway.family, &Address::family);
  };
  for (const auto& text : request.gateways) {
    const Address gateway = Address::parse(text);
    if (std::ranges::any_of(addresses, [&](const Address& a) { return a.same_host(gateway); }))
      throw base::error("gateway {} is the box's own address", text)
          .hint("a gateway is another machine, or the bridge");
    if (!reachable(gateway))
      throw base::error("gateway {} lies in no network of the box", text)
          .hint("it must be inside the prefix of one of its addresses");
    if (auto other = same_family(gateway); other != out.end())
      throw base::error("gateways {} and {} are of one family", other->host(), gateway.host())
          .hint("a box has at most one default route for IPv4 and one for IPv6");
    out.push_back(gateway);
  }
  if (request.gateways.empty())
    for (const auto& gateway : default_gateways())
      if (reachable(gateway) && same_family(gateway) == out.end()) out.push_back(gateway);
  return out;
}

/// No other box of this node, and nobody on its network, has what this box wants.
void require_free(const base::Context& context, const Config& config) {
  if (auto clash = find_clash(context, config))
    throw base::error("{} belongs to box {}", clash->value, clash->box)
        .hint(clash->what == Clash::What::kMac
                  ? "leave --mac out to get a new one"
                  : "choose another one; `drover-node box list` shows those in use");
  if (auto holders = probe(config.bridge, config.addresses); !holders.empty())
    throw base::error("address {} is in use on the network of {}, by {}", holders[0].address.host(),
                      config.bridge, holders[0].mac.to_string())
        .hint("choose another one, or stop the machine that has it");
}

State state_of(const Paths& paths, const std::optional<Move>& move, std::optional<pid_t>& init) {
  const Cgroup group(paths.cgroup);
  init = find_init(group);
  if (move) {
    switch (move->step) {
      case MoveStep::kLeaving:
        return State::kLeaving;
      case MoveStep::kGiven:
        return State::kGiven;
      case MoveStep::kArriving:
      case MoveStep::kPrepared:
        return State::kArriving;
      case MoveStep::kMine:
      case MoveStep::kWhole:
        return init && !group.frozen() ? State::kSettling : State::kArriving;
      case MoveStep::kSaving:
        return State::kSaving;
    }
  }
  if (!init) return base::exists(paths.run) ? State::kUnfinished : State::kStopped;
  if (!base::exists(paths.started)) return State::kUnfinished;
  return group.frozen() ? State::kFrozen : State::kRunning;
}

Status status_at(const Paths& paths, Config config) {
  std::optional<pid_t> init;
  auto move = find_move(paths);
  State state = state_of(paths, move, init);
  // A box whose init has ended by itself is stopped; its mounts wait for the next command.
  if (state == State::kUnfinished && !init && base::exists(paths.started)) state = State::kStopped;
  return {std::move(config), state, init.value_or(0), move ? move->peer : ""};
}

/// Whether the last process ended within `timeout`; may be interrupted.
bool wait_for_end(const Cgroup& group, std::chrono::milliseconds timeout) {
  const auto deadline = std::chrono::steady_clock::now() + timeout;
  for (;;) {
    const auto left =
        std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
    if (group.wait_empty(std::clamp(left, std::chrono::milliseconds(0), std::chrono::milliseconds(200))))
      return true;
    if (left.count() <= 0) return false;
    base::check_interrupt();
  }
}

int signal_number(const std::string& name) {
  static const std::map<std::string, int> kSignals = {
      {"SIGTERM", SIGTERM}, {"SIGINT", SIGINT},   {"SIGQUIT", SIGQUIT}, {"SIGHUP", SIGHUP},
      {"SIGPWR", SIGPWR},   {"SIGUSR1", SIGUSR1}, {"SIGUSR2", SIGUSR2}, {"SIGWINCH", SIGWINCH}};
  if (auto it = kSignals.find(name); it != kSignals.end()) return it->second;
  if (name.starts_with("SIGRTMIN+")) return SIGRTMIN + std::atoi(name.c_str() + 9);
  throw base::error("the template's stop signal '{}' is not known here", name);
}

}  // namespace

std::string random_id() {
  std::random_device random;
  std::string id;
  for (int i = 0; i < 4; ++i) id += std::format("{:08x}", static_cast<uint32_t>(random()));
  return id;
}

std::string_view to_string(State state) {
  switch (state) {
    case State::kStopped:
      return "stopped";
    case State::kRunning:
      return "running";
    case State::kUnfinished:
      return "unfinished";
    case State::kFrozen:
      return "frozen";
    case State::kLeaving:
      return "leaving";
    case State::kGiven:
      return "given";
    case State::kArriving:
      return "arriving";
    case State::kSettling:
      return "settling";
    case State::kSaving:
      return "saving";
  }
  return "?";
}

Config create(const base::Context& context, const CreateRequest& request) {
  check_name(request.name);
  const Lock node = lock_node(context);
  const Lock lock = lock_box(context, request.name);
  sweep_locked(context);
  if (base::exists(paths_of(context, request.name).dir))
    throw base::error("there is a box {} on this node already", request.name)
        .hint("choose another name, or `drover-node box destroy` the old one");
  if (base::exists(arriving_paths_of(context, request.name).dir))
    throw base::error("a box {} is arriving on this node", request.name).hint("choose another name");

  const templates::Store store(context.state_dir);
  const auto hold = store.hold();
  const templates::Manifest manifest = store.resolve(request.template_ref);
  Config config;
  config.name = request.name;
  config.uuid = random_id();
  config.template_ref = manifest.reference();
  config.layers = manifest.layers;
  config.start = manifest.start;
  config.bridge = request.bridge;
  config.image_bytes = request.image_bytes;
  config.mac = request.mac.empty() ? Mac::generate() : Mac::parse(request.mac);
  config.addresses = choose_addresses(request);
  config.gateways = choose_gateways(request, config.addresses);
  config.id_base = choose_id_base(context, request.name);
  config.created =
      std::chrono::duration_cast<std::chrono::seconds>(context.clock.wall().time_since_epoch()).count();
  require_free(context, config);

  // The box exists from the moment of the rename: whole or not at all.
  base::make_directories(context.state_dir + "/boxes", 0700);
  Paths made = paths_of(context, request.name);
  const std::string final_dir = made.dir, new_dir = context.state_dir + "/boxes/.new-" + request.name;
  base::Undo undo;
  undo.add("remove " + new_dir, [&] { base::remove_tree(new_dir); });
  made.dir = new_dir;
  made.priv = new_dir + "/private";
  made.upper = made.priv + "/upper";
  made.volume = new_dir + "/volume";
  made.config = new_dir + "/box.json";
  base::make_directories(new_dir, 0700);
  make_private_layer(config, made);
  if (config.image_bytes != 0) make_image(context, config, made);
  save_config(made, config);
  if (::rename(new_dir.c_str(), final_dir.c_str()) != 0) throw base::sys_error("cannot create {}", final_dir);
  undo.commit();
  base::fsync_path(context.state_dir + "/boxes");
  return config;
}

void start(const base::Context& context, const std::string& name) {
  const Lock lock = lock_box(context, name);
  start_locked(context, load_config(context, name));
}

void start_locked(const base::Context& context, const Config& config) {
  const std::string& name = config.name;
  const Paths paths = paths_of(context, name);
  require_no_move(paths, name);
  const Status now = status_at(paths, config);
  if (now.state == State::kRunning)
    throw base::error("box {} runs already", name).hint("`drover-node box show " + name + "` tells more");
  // What is left of a start that was cut off, or of a box that has ended by itself.
  tear_down(context, paths, name);

  base::in_context("starting box " + name, [&] {
    base::Undo undo;
    undo.add("tear down box " + name, [&] { tear_down(context, paths, name); });
    set_up_outside(context, config, paths);
    make_cable(config);
    plug_in_cable(config);
    const pid_t init = create_container(context, config, paths);
    const base::Fd netns = netns_of(init);  // stays, should its init end at once
    move_into(other_end_name(name), netns.get(), {config.mac, config.addresses, config.gateways});
    use_plain_tcp(netns.get());
    base::check_interrupt();
    start_container(context, config, paths);
    open_network(config);
    await_carrier(config, netns.get());
    announce(netns.get(), config.mac, config.addresses).close();
    base::write_file(paths.started, std::to_string(init) + "\n");
    undo.commit();
  });
}

bool stop(const base::Context& context, const std::string& name,
          std::optional<std::chrono::seconds> timeout) {
  const Lock lock = lock_box(context, name);
  const Config config = load_config(context, name);
  const Paths paths = paths_of(context, name);
  require_no_move(paths, name);
  const Status now = status_at(paths, config);
  bool gentle = true;
  if (now.init != 0) {
    const Cgroup group(paths.cgroup);
    if (now.state == State::kFrozen) group.thaw();
    gentle = false;
    if (now.state != State::kUnfinished) {
      base::Fd pidfd(static_cast<int>(::syscall(SYS_pidfd_open, now.init, 0)));
      if (pidfd)
        ::syscall(SYS_pidfd_send_signal, pidfd.get(), signal_number(config.start.stop_signal), nullptr, 0);
      gentle = wait_for_end(group, timeout.value_or(std::chrono::seconds(config.start.stop_seconds)));
    }
  }
  tear_down(context, paths, name);
  return gentle;
}

void destroy(const base::Context& context, const std::string& name, bool force) {
  // What a removal that was cut off has left is not worth a command of its own.
  sweep(context);
  const Lock lock = lock_box(context, name);
  const Config config = load_config(context, name);
  const Paths paths = paths_of(context, name);
  require_no_move(paths, name);
  const Status now = status_at(paths, config);
  if ((now.state == State::kRunning || now.state == State::kFrozen) && !force)
    throw base::error("box {} is running", name).hint("stop it first, or add --force");
  tear_down(context, paths, name);
  try {
    remember_destroyed(context, paths, config);
  } catch (const base::Error& e) {
    // On a full disk, say: only an answer is lost with it, and a destroy is what frees space.
    base::warn(
        "{}: a copy of box {} that waits elsewhere for this node's word needs `drover-node recover --drop` "
        "there",
        e.message(), name);
  }
  remove_box_dir(context, paths.dir);
}

void sweep(const base::Context& context) {
  const Lock node = lock_node(context);
  sweep_locked(context);
}

void remove_box_dir(const base::Context& context, const std::string& dir) {
  const std::string parent = dir.substr(0, dir.rfind('/'));
  const std::string gone = context.state_dir + "/boxes/.gone-" + random_id();
  base::make_directories(context.state_dir + "/boxes", 0700);
  if (::rename(dir.c_str(), gone.c_str()) != 0) {
    if (errno == ENOENT) return;
    throw base::sys_error("cannot remove {}", dir);
  }
  base::fsync_path(parent);
  base::remove_tree(gone);
}

std::vector<Status> list(const base::Context& context) {
  std::vector<Status> out;
  auto add = [&](const std::string& name, const Paths& paths) {
    try {
      if (auto config = find_config(paths)) out.push_back(status_at(paths, *config));
    } catch (const base::Error& e) {  // the others are all the more of interest
      base::warn("box {} is not shown: {}", name, e.message());
    }
  };
  for (const auto& name : box_names(context)) add(name, paths_of(context, name));
  for (const auto& name : arriving_names(context)) add(name, arriving_paths_of(context, name));
  return out;
}

Status status(const base::Context& context, const std::string& name) {
  return status_at(paths_of(context, name), load_config(context, name));
}

Status require_running(const base::Context& context, const std::string& name) {
  Status s = status(context, name);
  if (s.state != State::kRunning)
    throw base::error("box {} is {}, not running", name, to_string(s.state))
        .hint(s.state == State::kStopped ? "drover-node box start " + name
              : s.peer.empty()           ? "drover-node box stop " + name + ", then start it"
                                         : "drover-node recover");
  return s;
}

std::string log_tail(const base::Context& context, const std::string& name, size_t lines) {
  load_config(context, name);
  // The box's root could have put a symlink there: nothing outside of its layer is opened.
  base::Fd upper = open_upper(paths_of(context, name));
  auto log = base::open_beneath(upper.get(), kLogFile + 1, O_RDONLY | O_NONBLOCK);
  if (!log) return {};
  constexpr off_t kMost = 16 << 20;  // of a longer log only the end is looked at
  const off_t size = ::lseek(log->get(), 0, SEEK_END);
  ::lseek(log->get(), std::max<off_t>(0, size - kMost), SEEK_SET);
  std::string text(static_cast<size_t>(std::min(size, kMost)), '\0');
  text.resize(base::read_full(log->get(), std::as_writable_bytes(std::span(text))));
  if (lines == 0) return text;
  size_t at = text.size();
  if (at > 0 && text[at - 1] == '\n') --at;
  while (lines-- > 0 && at != std::string::npos && at > 0) at = text.rfind('\n', at - 1);
  return at == std::string::npos || at == 0 ? text : text.substr(at + 1);
}

}  // namespace box
