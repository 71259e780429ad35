#include "box/criu.h"

#include <criu/criu.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <format>
#include <limits>
#include <memory>

#include "base/error.h"
#include "box/criu_child.h"
#include "box/dump.h"

namespace box {
namespace {

// Each is some ms, and the first one reads its program into memory.
constexpr int kStarts = 4;

struct Freer {
  void operator()(criu_opts* o) const { criu_local_free_opts(o); }
};
using Options = std::unique_ptr<criu_opts, Freer>;

Options make_options() {
  criu_opts* raw = nullptr;
  if (criu_local_init_opts(&raw) != 0) throw base::error("libcriu has no memory");
  Options o(raw);
  criu_local_set_service_binary(raw, "criu");
  return o;
}

/// What dump and restore have in common.
Options options_of(const CriuRequest& request) {
  Options options = make_options();
  criu_opts* o = options.get();
  criu_local_set_service_fd(o, request.service);
  criu_local_set_images_dir_fd(o, request.images);
  criu_local_set_work_dir_fd(o, request.work);
  if (criu_local_set_config_file(o, request.config.path()) != 0) throw base::error("libcriu has no memory");
  criu_local_set_log_level(o, CRIU_LOG_INFO);
  criu_local_set_tcp_established(o, true);
  criu_local_set_file_locks(o, true);
  criu_local_set_link_remap(o, true);
  criu_local_set_orphan_pts_master(o, true);
  // The box's group is ours to make: CRIU would recreate its path in every hierarchy of
  // version 1 as well, and leave it there.
  criu_local_set_manage_cgroups(o, true);
  criu_local_set_manage_cgroups_mode(o, CRIU_CG_MODE_IGNORE);
  criu_local_set_notify_cb(o, [](char* action, criu_notify_arg_t) { return on_notify(action); });
  if (request.no_network) criu_local_set_empty_ns(o, CLONE_NEWNET);
  for (const auto& external : request.external) criu_local_add_external(o, external.c_str());
  return options;
}

/// Waits for CRIU, this process's only child.
int ended(int done) {
  while (::wait(nullptr) > 0 || errno == EINTR) {
  }
  return done;
}

}  // namespace

ConfigFile::ConfigFile(const std::string& text) : fd_(::memfd_create("criu.conf", MFD_CLOEXEC)) {
  if (!fd_) throw base::sys_error("cannot make a memory file");
  base::write_full(fd_.get(), text, "CRIU's configuration");
  path_ = std::format("/proc/{}/fd/{}", ::getpid(), fd_.get());
}

int request(const CriuDump& dump) {
  const Options options = options_of(dump);
  criu_opts* o = options.get();
  // Frames cannot reach the box, its cable is shut. What two of its own processes have between
  // them is kept still by CRIU, which costs it 12 ms. (Its default runs iptables programs, at tens
  // of milliseconds each.)
  criu_local_set_network_lock(o,
                              dump.inner_connections ? CRIU_NETWORK_LOCK_NFTABLES : CRIU_NETWORK_LOCK_SKIP);
  criu_local_set_pid(o, dump.init);
  criu_local_set_freeze_cgroup(o, dump.cgroup.c_str());
  // The freezer holds the box, not CRIU: so no process needs to live for the box to stay frozen.
  criu_local_set_leave_running(o, true);
  // A handshake that is under way is dropped; its client tries again by itself.
  criu_local_set_tcp_skip_in_flight(o, true);
  criu_local_set_ghost_limit(o, kMostGhostBytes);
  return ended(criu_local_dump(o));
}

int request(const CriuRestore& restore) {
  const Options options = options_of(restore);
  criu_opts* o = options.get();
  // All sockets exist when CRIU ends its repair of them, and the cable is shut: nothing to lock out.
  criu_local_set_network_lock(o, CRIU_NETWORK_LOCK_SKIP);
  criu_local_set_root(o, restore.root.c_str());
  criu_local_set_tcp_close(o, restore.close_connections);
  return ended(criu_local_restore(o));
}

std::string criu_version() {
  Options o = make_options();
  int v = criu_local_get_version(o.get());  // 40201 for 4.2.1
  if (v < 0) base::check_interrupt();       // Ctrl-C reaches CRIU as well
  if (v < 0)
    throw base::error("CRIU does not run on this node")
        .hint("`criu check` tells what is missing; is it installed?");
  return std::to_string(v / 10000) + "." + std::to_string(v / 100 % 100) + "." + std::to_string(v % 100);
}

double criu_start_ms() {
  double best = std::numeric_limits<double>::infinity();
  for (int turn = 0; turn < kStarts; ++turn) {
    const auto start = std::chrono::steady_clock::now();
    criu_version();
    best = std::min(
        best, std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count());
  }
  return best;
}

bool can_restore_lazily() {
  Options o = make_options();
  struct criu_feature_check wanted{.mem_track = true, .lazy_pages = true, .pidfd_store = true};
  // As a side effect CRIU keeps what it has found out about the kernel (/run/criu.kdat): a dump or
  // restore that finds nothing there probes for it, 30 to 40 ms long, while the box is frozen.
  if (criu_local_feature_check(o.get(), &wanted, sizeof wanted) < 0) return false;
  return wanted.lazy_pages;
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
