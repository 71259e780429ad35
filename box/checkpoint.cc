#include "box/checkpoint.h"

#include <criu/criu.h>
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <memory>
#include <sstream>

#include "base/error.h"
#include "base/fd.h"
#include "box/images.h"

namespace box {
namespace {

// The devices that crun binds into a box from the node: CRIU takes them out by path and puts
// the other node's in.
constexpr const char* kDevices[] = {"null", "zero", "full", "tty", "random", "urandom"};

// CRIU itself gives up on what it waits for; this is for the case that it does not.
constexpr auto kDeadline = std::chrono::minutes(10);

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
void set_common(criu_opts* o, int images, const std::string& log) {
  const size_t slash = log.rfind('/');
  criu_local_set_images_dir_fd(o, images);
  criu_local_set_work_dir_fd(o, base::open(log.substr(0, slash), O_RDONLY | O_DIRECTORY).release());
  criu_local_set_log_file(o, log.substr(slash + 1).c_str());
  criu_local_set_log_level(o, CRIU_LOG_INFO);
  criu_local_set_tcp_established(o, true);
  criu_local_set_file_locks(o, true);
  criu_local_set_link_remap(o, true);
  criu_local_set_orphan_pts_master(o, true);
  // The box's group is ours to make: CRIU would recreate its path in every hierarchy of
  // version 1 as well, and leave it there.
  criu_local_set_manage_cgroups(o, true);
  criu_local_set_manage_cgroups_mode(o, CRIU_CG_MODE_IGNORE);
  // The default runs iptables programs, tens of milliseconds each.
  criu_local_set_network_lock(o, CRIU_NETWORK_LOCK_NFTABLES);
}

/// CRIU's own words: the lines of its log that say Error, the first ones, since the rest follow
/// from them.
std::string error_lines(const std::string& log) {
  auto text = base::read_file_if_exists(log, 256 << 20);
  if (!text) return {};
  std::istringstream in(*text);
  std::string found;
  int count = 0;
  for (std::string line; count < 3 && std::getline(in, line);)
    if (auto at = line.find("Error ("); at != std::string::npos) {
      found += (count++ ? "; " : "") + line.substr(at);
    }
  return found;
}

/// One of CRIU's notifications, and what we do while CRIU waits at it.
struct Halt {
  const char* action;
  std::function<void()> work;
};

// What the child below shares with libcriu's callback, which takes no argument of ours.
int g_question = -1, g_answer = -1;
const char* g_action = "";

int on_notify(char* action, criu_notify_arg_t) {
  if (std::strcmp(action, g_action) != 0) return 0;
  char c = 'q';
  return ::write(g_question, &c, 1) == 1 && ::read(g_answer, &c, 1) == 1 && c == 'y' ? 0 : -1;
}

/// Runs `request` in a child of its own, so that a CRIU that hangs does not hang us, and so that
/// it can enter the box's control group. At CRIU's notification `halt.action` the child waits while
/// `halt.work` runs here; what that throws makes CRIU give up, and is thrown. `request` returns
/// libcriu's result.
void in_child(const std::string& what, const std::string& log, const std::string& lock, const Halt& halt,
              const std::function<int()>& request) {
  base::Fd guard = base::open(lock, O_RDWR | O_CREAT);
  base::Pipe question = base::make_pipe(), answer = base::make_pipe();
  const pid_t parent = ::getpid();
  pid_t child = ::fork();
  if (child < 0) throw base::sys_error("cannot start a process");
  if (child == 0) {
    // With this process CRIU's request socket goes: CRIU then lets the box be and ends.
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() != parent) ::_exit(1);
    // Ctrl-C goes to every process of the terminal's group. CRIU would die of it with its parasite
    // still in the box.
    ::setsid();
    // CRIU inherits it, what it restores does not: so it tells whether CRIU is at work.
    ::flock(guard.get(), LOCK_EX);
    ::fcntl(guard.get(), F_SETFD, 0);
    question.read.close();
    answer.write.close();
    g_question = question.write.get();
    g_answer = answer.read.get();
    g_action = halt.action;
    // libcriu expects SIGCHLD to be blocked while it waits for what it restores.
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    ::sigprocmask(SIG_BLOCK, &set, nullptr);
    ::_exit(request() < 0 ? 1 : 0);
  }
  guard.close();
  question.write.close();
  answer.read.close();

  auto deadline = std::chrono::steady_clock::now() + kDeadline;
  bool timed_out = false;
  std::exception_ptr failure;
  for (;;) {
    auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
    pollfd p{question.read.get(), POLLIN, 0};
    int n = ::poll(&p, 1, static_cast<int>(std::max<int64_t>(left.count(), 0)));
    if (n < 0 && errno == EINTR) continue;
    char c = 0;
    if (n <= 0) {
      timed_out = true;
      ::kill(child, SIGKILL);
      break;
    }
    if (::read(question.read.get(), &c, 1) <= 0) break;  // it has ended
    try {
      halt.work();
    } catch (...) {
      failure = std::current_exception();
    }
    base::write_full(answer.write.get(), failure ? "n" : "y", "the child that runs CRIU");
  }
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (failure) std::rethrow_exception(failure);
  if (timed_out)
    throw base::error("CRIU did not finish to {} in {} minutes", what, kDeadline.count())
        .hint("its log is " + log);
  if (status != 0) {
    std::string lines = error_lines(log);
    throw base::error("CRIU could not {}{}{}", what, lines.empty() ? "" : ": ", lines)
        .hint("the whole log is " + log);
  }
}

/// Some images are opened by the restored tasks: in the box's user namespace already, first still
/// with root's id and later with the box's. So they stay root's, and the box's group may read them.
void share_images(const std::string& dir, uint32_t group) {
  base::Fd fd = base::open(dir, O_RDONLY | O_DIRECTORY);
  std::unique_ptr<DIR, int (*)(DIR*)> entries(::fdopendir(base::duplicate(fd.get()).release()), ::closedir);
  if (!entries || ::fchown(fd.get(), 0, group) != 0 || ::fchmod(fd.get(), 0750) != 0)
    throw base::sys_error("cannot share {} with the box", dir);
  while (const dirent* e = ::readdir(entries.get())) {
    if (e->d_name[0] == '.') continue;
    base::Fd image = base::open_at(fd.get(), e->d_name, O_RDONLY | O_NOFOLLOW);
    if (::fchown(image.get(), 0, group) != 0 || ::fchmod(image.get(), 0640) != 0)
      throw base::sys_error("cannot share {}/{} with the box", dir, e->d_name);
  }
}

}  // namespace

std::string Criu::version() {
  Options o = make_options();
  int v = criu_local_get_version(o.get());  // 40201 for 4.2.1
  if (v < 0)
    throw base::error("CRIU does not run on this node")
        .hint("`criu check` tells what is missing; is it installed?");
  return std::to_string(v / 10000) + "." + std::to_string(v / 100 % 100) + "." + std::to_string(v % 100);
}

void Criu::dump(const DumpRequest& request, const std::function<void()>& when_dumped) {
  base::Fd images = base::open(request.images, O_RDONLY | O_DIRECTORY);
  in_child("freeze the box into images", request.log, request.lock, {"post-dump", when_dumped}, [&] {
    Options options = make_options();
    criu_opts* o = options.get();
    set_common(o, images.get(), request.log);
    criu_local_set_notify_cb(o, on_notify);
    criu_local_set_pid(o, request.init);
    criu_local_set_freeze_cgroup(o, request.cgroup.c_str());
    // The freezer holds the box, not CRIU: so no process needs to live for the box to stay frozen.
    criu_local_set_leave_running(o, true);
    // A handshake that is under way is dropped; its client tries again by itself.
    criu_local_set_tcp_skip_in_flight(o, true);
    criu_local_set_ghost_limit(o, 1U << 30);
    criu_local_add_external(o, ("veth[eth0]:" + request.host_end).c_str());
    for (const char* device : kDevices)
      criu_local_add_external(o, (std::string("mnt[/dev/") + device + "]:dev-" + device).c_str());
    return criu_local_dump(o);
  });
}

pid_t Criu::restore(const RestoreRequest& request) {
  base::Fd images = base::open(request.images, O_RDONLY | O_DIRECTORY);
  forget_link_state(images.get());
  share_images(request.images, request.id_base);
  const Cgroup group(request.cgroup);
  // At pre-resume everything is restored and each task stands, traced, at its last system call of
  // CRIU's. When CRIU lets go, the freezer has them.
  const Halt halt{"pre-resume", [&] {
                    evict_ours(group);
                    group.freeze();
                  }};
  in_child("restore the box from images", request.log, request.lock, halt, [&] {
    // What CRIU restores is born into its own group and cgroup namespace: the box's.
    group.join(::getpid());
    if (::unshare(CLONE_NEWCGROUP) != 0) return -1;
    Options options = make_options();
    criu_opts* o = options.get();
    set_common(o, images.get(), request.log);
    criu_local_set_root(o, request.root.c_str());
    criu_local_set_notify_cb(o, on_notify);
    criu_local_add_external(o, ("netdev[eth0]:" + request.other_end).c_str());
    for (const char* device : kDevices)
      criu_local_add_external(o, (std::string("mnt[dev-") + device + "]:/dev/" + device).c_str());
    return criu_local_restore(o);
  });
  auto init = find_init(group);
  if (!init) throw base::error("CRIU restored the box, but its process 1 is not there");
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
