#include "box/container.h"

#include <linux/capability.h>
#include <nlohmann/json.hpp>

#include <cerrno>

#include "base/error.h"
#include "base/fd.h"
#include "box/cgroup.h"

namespace box {
namespace {

using Json = nlohmann::json;

struct Capability {
  const char* name;
  int number;
};

// What a server's root expects. All of them count only in the box's own user namespace.
constexpr Capability kCapabilities[] = {
    {"CAP_CHOWN", CAP_CHOWN},
    {"CAP_DAC_OVERRIDE", CAP_DAC_OVERRIDE},
    {"CAP_DAC_READ_SEARCH", CAP_DAC_READ_SEARCH},
    {"CAP_FOWNER", CAP_FOWNER},
    {"CAP_FSETID", CAP_FSETID},
    {"CAP_KILL", CAP_KILL},
    {"CAP_SETGID", CAP_SETGID},
    {"CAP_SETUID", CAP_SETUID},
    {"CAP_SETPCAP", CAP_SETPCAP},
    {"CAP_LINUX_IMMUTABLE", CAP_LINUX_IMMUTABLE},
    {"CAP_NET_BIND_SERVICE", CAP_NET_BIND_SERVICE},
    {"CAP_NET_BROADCAST", CAP_NET_BROADCAST},
    {"CAP_NET_ADMIN", CAP_NET_ADMIN},
    {"CAP_NET_RAW", CAP_NET_RAW},
    {"CAP_IPC_LOCK", CAP_IPC_LOCK},
    {"CAP_IPC_OWNER", CAP_IPC_OWNER},
    {"CAP_SYS_CHROOT", CAP_SYS_CHROOT},
    {"CAP_SYS_PTRACE", CAP_SYS_PTRACE},
    {"CAP_SYS_ADMIN", CAP_SYS_ADMIN},
    {"CAP_SYS_BOOT", CAP_SYS_BOOT},
    {"CAP_SYS_NICE", CAP_SYS_NICE},
    {"CAP_SYS_RESOURCE", CAP_SYS_RESOURCE},
    {"CAP_SYS_TTY_CONFIG", CAP_SYS_TTY_CONFIG},
    {"CAP_MKNOD", CAP_MKNOD},
    {"CAP_LEASE", CAP_LEASE},
    {"CAP_AUDIT_WRITE", CAP_AUDIT_WRITE},
    {"CAP_SETFCAP", CAP_SETFCAP},
};

Json mount_entry(const char* target, const char* type, std::vector<std::string> options) {
  return {{"destination", target}, {"type", type}, {"source", type}, {"options", std::move(options)}};
}

std::string bundle_dir(const Paths& paths) { return paths.run + "/bundle"; }

/// crun's own files of a box: it also keeps the compiled rules of seccomp in there.
std::string crun_dir(const base::Context& context, const Config& config) {
  return context.run_dir + "/crun/" + config.name;
}

std::vector<std::string> crun(const base::Context& context, const Config& config,
                              std::vector<std::string> rest) {
  std::vector<std::string> argv = {"crun", "--root", crun_dir(context, config), "--cgroup-manager",
                                   "cgroupfs"};
  argv.insert(argv.end(), rest.begin(), rest.end());
  return argv;
}

}  // namespace

const std::vector<int>& capability_numbers() {
  static const std::vector<int> numbers = [] {
    std::vector<int> n;
    for (const auto& c : kCapabilities) n.push_back(c.number);
    return n;
  }();
  return numbers;
}

std::string container_config(const Config& config, const Paths& paths) {
  // The box's stdio must not be files outside it, or CRIU could not find them at the other node:
  // its own shell opens its own log before it becomes the template's init.
  std::vector<std::string> args = {
      "/bin/sh", "-c",
      // On a full disk there may be no room for a first log: then the box runs without one.
      std::string("mkdir -p /var/log; log=") + kLogFile +
          "; ( : >>$log ) 2>/dev/null || log=/dev/null; exec \"$@\" </dev/null >>$log 2>&1",
      "sh"};
  args.insert(args.end(), config.start.init.begin(), config.start.init.end());

  std::vector<std::string> env = {"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                                  "HOME=/root", "container=drover"};
  for (const auto& [key, value] : config.start.env) env.push_back(key + "=" + value);

  std::vector<std::string> caps;
  for (const auto& c : kCapabilities) caps.emplace_back(c.name);

  const Json map = Json::array({{{"containerID", 0}, {"hostID", config.id_base}, {"size", kIdCount}}});
  Json namespaces = Json::array();
  for (const char* type : {"user", "mount", "pid", "ipc", "uts", "network", "cgroup"})
    namespaces.push_back({{"type", type}});

  Json mounts = {mount_entry("/proc", "proc", {"nosuid", "noexec", "nodev"}),
                 mount_entry("/dev", "tmpfs", {"nosuid", "strictatime", "mode=755", "size=64k"}),
                 mount_entry("/dev/pts", "devpts",
                             {"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}),
                 mount_entry("/dev/shm", "tmpfs", {"nosuid", "nodev", "mode=1777"}),
                 mount_entry("/dev/mqueue", "mqueue", {"nosuid", "noexec", "nodev"}),
                 mount_entry("/run", "tmpfs", {"nosuid", "nodev", "mode=755"}),
                 mount_entry("/sys", "sysfs", {"nosuid", "noexec", "nodev", "ro"})};
  if (config.start.control_groups)
    mounts.push_back(mount_entry("/sys/fs/cgroup", "cgroup", {"nosuid", "noexec", "nodev"}));

  const Json json = {
      {"ociVersion", "1.0.2"},
      {"hostname", config.name},
      {"root", {{"path", paths.root}}},
      {"process",
       {{"terminal", false},
        {"user", {{"uid", 0}, {"gid", 0}}},
        {"args", args},
        {"env", env},
        {"cwd", config.start.working_dir},
        {"noNewPrivileges", false},
        {"capabilities", {{"bounding", caps}, {"effective", caps}, {"permitted", caps}}}}},
      {"mounts", mounts},
      {"linux",
       {{"uidMappings", map},
        {"gidMappings", map},
        {"namespaces", namespaces},
        {"cgroupsPath", paths.cgroup.substr(cgroup_mount().size())},
        // Debian 13's ping has no privilege of its own: the kernel lets these groups send echo requests, and
        // by default none (icmp(7), ping_group_range). Elsewhere systemd sets it.
        {"sysctl", {{"net.ipv4.ping_group_range", "0 " + std::to_string(kIdCount - 1)}}},
        // Nothing is masked: what /proc and /sys guard, they guard from ids without privilege on
        // the node, which is what the box's root is. Each mask would be one mount more to move.
        {"maskedPaths", Json::array()},
        // CRIU does not know io_uring. Programs that find none, as those of Node.js, do without.
        {"seccomp",
         {{"defaultAction", "SCMP_ACT_ALLOW"},
          {"architectures", {"SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"}},
          {"syscalls",
           {{{"names", {"io_uring_setup"}}, {"action", "SCMP_ACT_ERRNO"}, {"errnoRet", ENOSYS}}}}}},
        {"readonlyPaths", Json::array()}}}};
  return json.dump(1);
}

pid_t create_container(const base::Context& context, const Config& config, const Paths& paths) {
  base::remove_tree(crun_dir(context, config));
  base::make_directories(crun_dir(context, config), 0700);
  base::make_directories(bundle_dir(paths), 0700);
  base::write_file(bundle_dir(paths) + "/config.json", container_config(config, paths));
  const std::string pid_file = paths.run + "/crun.pid";
  context.runner.run(
      {.argv = crun(context, config,
                    {"create", "--bundle", bundle_dir(paths), "--pid-file", pid_file, config.name}),
       .timeout = std::chrono::seconds(30)});
  const Cgroup group(paths.cgroup);
  group.keep();  // crun gives all of it to the box's root
  if (config.start.control_groups) group.delegate(config.id_base);
  return static_cast<pid_t>(std::stol(base::read_file(pid_file)));
}

void start_container(const base::Context& context, const Config& config, const Paths&) {
  context.runner.run(
      {.argv = crun(context, config, {"start", config.name}), .timeout = std::chrono::seconds(30)});
  base::remove_tree(crun_dir(context, config));
}

}  // namespace box
