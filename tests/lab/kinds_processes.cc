// What a process is: its ids, limits, filters, policies.
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <vector>

#include "kinds.h"

namespace {

pid_t forever(const std::function<void()>& first = [] {}) {
  return child([=] {
    first();
    write_file("child.ready", std::to_string(getpid()));
    for (;;) pause();
  });
}

pid_t started(const std::function<void()>& first) {
  unlink("child.ready");
  const pid_t pid = forever(first);
  until("the child is ready", [] { return access("child.ready", F_OK) == 0; });
  return pid;
}

Check credentials() {
  chmod(".", 0777);
  const pid_t pid = started([] {
    const gid_t groups[] = {7, 8, 65000};
    must(setgroups(3, groups), "setgroups");
    must(setresgid(10, 11, 12), "setresgid");
    must(prctl(PR_SET_KEEPCAPS, 1), "KEEPCAPS");
    must(prctl(PR_CAPBSET_DROP, CAP_SYS_BOOT), "CAPBSET_DROP");
    must(setresuid(1000, 1001, 1002), "setresuid");
    __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
    __user_cap_data_struct data[2]{};
    must(syscall(SYS_capget, &header, data), "capget");
    data[0].effective = 1U << CAP_NET_BIND_SERVICE;
    data[0].permitted = data[0].inheritable = 1U << CAP_NET_BIND_SERVICE;
    must(syscall(SYS_capset, &header, data), "capset");
    must(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_NET_BIND_SERVICE, 0, 0), "AMBIENT");
    umask(0027);
    setsid();
  });
  auto all = [=] {
    std::string text;
    for (const char* key :
         {"Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "Umask"})
      text += status_of(pid, key) + "\n";
    return text + std::to_string(getsid(pid)) + " " + std::to_string(getpgid(pid));
  };
  return [=, was = all()] { same(all(), was, "what it may do"); };
}

Check limits() {
  const rlimit files{4000, 5000}, core{0, 1 << 20}, stack{16 << 20, RLIM_INFINITY}, data{1L << 40, 1L << 41};
  must(setrlimit(RLIMIT_NOFILE, &files), "NOFILE");
  must(setrlimit(RLIMIT_CORE, &core), "CORE");
  must(setrlimit(RLIMIT_DATA, &data), "DATA");
  rlimit now{};
  must(getrlimit(RLIMIT_STACK, &now), "STACK");
  const rlimit wanted{std::min(stack.rlim_cur, now.rlim_max), now.rlim_max};
  must(setrlimit(RLIMIT_STACK, &wanted), "STACK");
  const int high = must(fcntl(must(open("/dev/null", O_RDWR), "null"), F_DUPFD, 3999), "a high descriptor");
  std::vector<int> many;
  for (int i = 0; i < 1500; ++i) many.push_back(must(dup(high), "dup"));
  return [=] {
    auto check = [](int which, const rlimit& was, const char* name) {
      rlimit is{};
      must(getrlimit(static_cast<__rlimit_resource>(which), &is), name);
      require(is.rlim_cur == was.rlim_cur && is.rlim_max == was.rlim_max,
              std::string(name) + " is another one");
    };
    check(RLIMIT_NOFILE, files, "RLIMIT_NOFILE");
    check(RLIMIT_CORE, core, "RLIMIT_CORE");
    check(RLIMIT_DATA, data, "RLIMIT_DATA");
    check(RLIMIT_STACK, wanted, "RLIMIT_STACK");
    for (const int fd : many) must(fcntl(fd, F_GETFD), "a descriptor");
    must(write(high, "x", 1), "write");
  };
}

Check scheduling() {
  const pid_t batch = started([] {
    const sched_param none{};
    must(sched_setscheduler(0, SCHED_BATCH, &none), "SCHED_BATCH");
    must(setpriority(PRIO_PROCESS, 0, 7), "nice");
    write_file("/proc/self/oom_score_adj", "500");
  });
  const pid_t idle = started([] {
    const sched_param none{};
    must(sched_setscheduler(0, SCHED_IDLE, &none), "SCHED_IDLE");
  });
  return [=] {
    same(sched_getscheduler(batch), SCHED_BATCH, "the policy");
    same(sched_getscheduler(idle), SCHED_IDLE, "the policy");
    same(getpriority(PRIO_PROCESS, static_cast<id_t>(batch)), 7, "the nice value");
    same(read_file("/proc/" + std::to_string(batch) + "/oom_score_adj"), "500\n", "oom_score_adj");
  };
}

Check affinity() {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(0, &set);
  must(sched_setaffinity(0, sizeof set, &set), "sched_setaffinity");
  return [] {
    cpu_set_t now;
    must(sched_getaffinity(0, sizeof now, &now), "sched_getaffinity");
    same(CPU_COUNT(&now), 1, "the number of processors");
  };
}

Check io_priority() {
  constexpr int kBestEffort7 = (2 << 13) | 7;
  must(syscall(SYS_ioprio_set, 1, 0, kBestEffort7), "ioprio_set");
  return [=] { same(static_cast<int>(syscall(SYS_ioprio_get, 1, 0)), kBestEffort7, "the I/O priority"); };
}

Check prctls() {
  must(prctl(PR_SET_NAME, "a name (of) it"), "NAME");
  must(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "NO_NEW_PRIVS");
  must(prctl(PR_SET_PDEATHSIG, SIGTERM), "PDEATHSIG");
  must(prctl(PR_SET_DUMPABLE, 0), "DUMPABLE");
  return [] {
    char name[17] = {};
    prctl(PR_GET_NAME, name);
    same(std::string(name), "a name (of) it", "its name");
    same(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), 1, "NO_NEW_PRIVS");
    int signal = 0;
    prctl(PR_GET_PDEATHSIG, &signal);
    same(signal, SIGTERM, "PDEATHSIG");
    same(prctl(PR_GET_DUMPABLE), 0, "DUMPABLE");
  };
}

Check timer_slack() {
  must(prctl(PR_SET_TIMERSLACK, 123456), "TIMERSLACK");
  return [] { same(prctl(PR_GET_TIMERSLACK), 123456, "TIMERSLACK"); };
}

Check subreaper() {
  must(prctl(PR_SET_CHILD_SUBREAPER, 1), "CHILD_SUBREAPER");
  return [] {
    int on = 0;
    prctl(PR_GET_CHILD_SUBREAPER, &on);
    same(on, 1, "CHILD_SUBREAPER");
  };
}

Check thp_disabled() {
  must(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0), "THP_DISABLE");
  return [] { same(prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0), 1, "THP_DISABLE"); };
}

Check personality_bits() {
  must(personality(ADDR_NO_RANDOMIZE), "personality");
  return [] { same(personality(0xffffffff), static_cast<int>(ADDR_NO_RANDOMIZE), "the personality"); };
}

Check seccomp_filter() {
  must(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "NO_NEW_PRIVS");
  sock_filter code[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_sethostname, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EXDEV),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const sock_fprog program{4, code};
  must(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program), "seccomp");
  code[1].k = SYS_setdomainname;
  must(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program), "a second filter");
  // The box may have one of its own.
  return [filters = status_of(getpid(), "Seccomp_filters")] {
    require(sethostname("x", 1) != 0 && errno == EXDEV, "the first filter is gone");
    require(setdomainname("x", 1) != 0 && errno == EXDEV, "the second filter is gone");
    same(status_of(getpid(), "Seccomp_filters"), filters, "the number of filters");
  };
}

Check pidfds() {
  const pid_t pid = forever();
  const int alive = must(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)), "pidfd_open");
  return [=, next = pid, fd = alive]() mutable {
    pollfd p{fd, POLLIN, 0};
    same(poll(&p, 1, 0), 0, "the end of who lives");
    must(syscall(SYS_pidfd_send_signal, fd, SIGKILL, nullptr, 0), "pidfd_send_signal");
    same(poll(&p, 1, 3000), 1, "the end of who was killed");
    wait_for(next);
    close(fd);
    next = forever();
    fd = must(static_cast<int>(syscall(SYS_pidfd_open, next, 0)), "pidfd_open");
  };
}

Check pidfd_dead() {
  const pid_t pid = forever();
  const int dead = must(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)), "pidfd_open");
  kill(pid, SIGKILL);
  wait_for(pid);
  return [=] {
    pollfd p{dead, POLLIN, 0};
    same(poll(&p, 1, 0), 1, "the end of the dead");
  };
}

/// As after an upgrade of a package: the program and a file that is mapped from it are not there any more.
Check deleted_program() {
  write_file("program", read_file("/proc/self/exe"));
  chmod("program", 0755);
  const pid_t pid = child([] { execl("./program", "program", "serve", nullptr); });
  until("it runs", [=] { return status_of(pid, "Name") == "program"; });
  must(unlink("program"), "unlink");
  write_file("program", "something else");
  return [=] {
    same(waitpid(pid, nullptr, WNOHANG), pid_t{0}, "its end");
    same(read_file("program"), "something else", "what has its name now");
    char path[200] = {};
    must(readlink(("/proc/" + std::to_string(pid) + "/exe").c_str(), path, sizeof path - 1), "readlink");
    require(std::string(path).contains("deleted") || std::string(path).contains("program"), path);
  };
}

Check process_groups() {
  int ready[2];
  must(pipe(ready), "pipe");
  const pid_t leader = child([=] {
    setpgid(0, 0);
    for (int i = 0; i < 3; ++i) forever();
    write_all(ready[1], "x");
    for (;;) pause();
  });
  read_some(ready[0]);
  // A session whose leader is dead, and a process whose parent is.
  const pid_t session = child([=] {
    setsid();
    const pid_t orphan = forever();
    write_file("orphan", std::to_string(orphan));
  });
  wait_for(session);
  return [=] {
    same(getpgid(leader), leader, "the group of its leader");
    const pid_t orphan = std::stoi(read_file("orphan"));
    same(getsid(orphan), session, "the session of an orphan");
    same(status_of(orphan, "PPid"), "1", "the parent of an orphan");
  };
}

Check proc_files() {
  const int own = must(open("/proc/self/status", O_RDONLY), "status"),
            net = must(open("/proc/net/dev", O_RDONLY), "net/dev"),
            dir = must(open("/proc/self/fd", O_RDONLY | O_DIRECTORY), "fd"),
            sys = must(open("/sys/class/net", O_RDONLY | O_DIRECTORY), "sys"),
            random = must(open("/dev/urandom", O_RDONLY), "urandom"),
            null = must(open("/dev/null", O_RDWR), "null"), full = must(open("/dev/full", O_RDWR), "full");
  return [=] {
    for (const int fd : {own, net}) {
      must(lseek(fd, 0, SEEK_SET), "lseek");
      require(!read_some(fd).empty(), "nothing is in it");
    }
    must(faccessat(dir, "0", F_OK, 0), "/proc/self/fd/0");
    must(faccessat(sys, "eth0", F_OK, 0), "/sys/class/net/eth0");
    same(read_some(random, 10).size(), size_t{10}, "random bytes");
    same(read_some(null), "", "/dev/null");
    require(write(full, "x", 1) < 0 && errno == ENOSPC, "/dev/full takes bytes");
  };
}

Check proc_of_dead() {
  const pid_t pid = forever();
  must(open(("/proc/" + std::to_string(pid) + "/stat").c_str(), O_RDONLY), "stat");
  kill(pid, SIGKILL);
  wait_for(pid);
  return [] {};
}

Check cgroup_namespace() {
  must(unshare(CLONE_NEWCGROUP), "unshare");
  return [] { require(!read_file("/proc/self/cgroup").empty(), "it is in no control group"); };
}

}  // namespace

const Kind kProcessKinds[] = {{"credentials", credentials},
                              {"limits", limits},
                              {"scheduling", scheduling},
                              {"affinity", affinity},
                              {"io-priority", io_priority},
                              {"prctl", prctls},
                              {"timer-slack", timer_slack},
                              {"subreaper", subreaper},
                              {"thp-disabled", thp_disabled},
                              {"personality", personality_bits},
                              {"seccomp", seccomp_filter},
                              {"pidfd", pidfds},
                              {"pidfd-dead", pidfd_dead},
                              {"deleted-program", deleted_program},
                              {"process-groups", process_groups},
                              {"proc-files", proc_files},
                              {"proc-of-dead", proc_of_dead},
                              {"cgroup-namespace", cgroup_namespace},
                              {}};
