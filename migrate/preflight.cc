#include "migrate/preflight.h"

#include <fcntl.h>
#include <fts.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <initializer_list>
#include <memory>
#include <sstream>

#include "base/error.h"
#include "base/fd.h"
#include "box/announce.h"
#include "box/cgroup.h"
#include "box/cgroup_tree.h"
#include "box/claims.h"
#include "box/criu.h"
#include "box/network.h"
#include "box/ownership.h"
#include "box/volume.h"
#include "migrate/mapped.h"
#include "migrate/preflight_box.h"
#include "migrate/rules.h"

namespace migrate {
namespace {

constexpr uint64_t kMiB = 1 << 20;
constexpr uint64_t kMostBytes = uint64_t{1} << 50;  // of anything that a greeting announces
constexpr size_t kMostHostName = 255;               // bytes (Linux has 64; longer ones may be FQDNs)

// What a program may choose its code by; flags of the kernel's own are left out. From the names in
// /proc/cpuinfo (Linux, arch/x86/include/asm/cpufeatures.h).
constexpr auto kUserFlags = std::to_array<std::string_view>({"abm",
                                                             "adx",
                                                             "aes",
                                                             "amx_bf16",
                                                             "amx_int8",
                                                             "amx_tile",
                                                             "avx",
                                                             "avx2",
                                                             "avx512_bf16",
                                                             "avx512_bitalg",
                                                             "avx512_fp16",
                                                             "avx512_vbmi2",
                                                             "avx512_vnni",
                                                             "avx512_vp2intersect",
                                                             "avx512_vpopcntdq",
                                                             "avx512bw",
                                                             "avx512cd",
                                                             "avx512dq",
                                                             "avx512f",
                                                             "avx512ifma",
                                                             "avx512vbmi",
                                                             "avx512vl",
                                                             "avx_vnni",
                                                             "bmi1",
                                                             "bmi2",
                                                             "cldemote",
                                                             "clflushopt",
                                                             "clwb",
                                                             "clzero",
                                                             "cx16",
                                                             "erms",
                                                             "f16c",
                                                             "fma",
                                                             "fma4",
                                                             "fsgsbase",
                                                             "fsrm",
                                                             "gfni",
                                                             "lahf_lm",
                                                             "mmx",
                                                             "movbe",
                                                             "movdir64b",
                                                             "movdiri",
                                                             "pclmulqdq",
                                                             "pku",
                                                             "popcnt",
                                                             "rdpid",
                                                             "rdrand",
                                                             "rdseed",
                                                             "rdtscp",
                                                             "serialize",
                                                             "sha_ni",
                                                             "sse",
                                                             "sse2",
                                                             "sse4_1",
                                                             "sse4_2",
                                                             "sse4a",
                                                             "ssse3",
                                                             "tbm",
                                                             "vaes",
                                                             "vpclmulqdq",
                                                             "waitpkg",
                                                             "xgetbv1",
                                                             "xop",
                                                             "xsave",
                                                             "xsavec",
                                                             "xsaveopt"});

uint64_t free_bytes(const std::string& path) {
  struct statvfs s{};
  if (::statvfs(path.c_str(), &s) != 0) throw base::sys_error("cannot look at {}", path);
  return uint64_t(s.f_bavail) * s.f_frsize;
}

/// What st_blocks say, a hard link counted once for each name: an upper bound.
uint64_t disk_usage(const std::string& dir) {
  std::string path = dir;
  char* paths[] = {path.data(), nullptr};
  std::unique_ptr<FTS, int (*)(FTS*)> tree(::fts_open(paths, FTS_PHYSICAL | FTS_NOCHDIR | FTS_XDEV, nullptr),
                                           ::fts_close);
  if (!tree) throw base::sys_error("cannot read {}", dir);
  uint64_t total = 0;
  while (const FTSENT* entry = ::fts_read(tree.get()))
    if (entry->fts_info != FTS_DP && entry->fts_statp) total += uint64_t(entry->fts_statp->st_blocks) * 512;
  return total;
}

std::pair<int, int> kernel_version() {
  utsname u{};
  ::uname(&u);
  int major = 0, minor = 0;
  std::sscanf(u.release, "%d.%d", &major, &minor);
  return {major, minor};
}

std::tuple<int, int, int> version_numbers(const std::string& text) {
  int a = 0, b = 0, c = 0;
  std::sscanf(text.c_str(), "%d.%d.%d", &a, &b, &c);
  return {a, b, c};
}

std::string here() {
  std::array<char, 256> name{};
  ::gethostname(name.data(), name.size() - 1);
  return name.data();
}

/// CRIU is there and knows this kernel; the limits that it runs into are lifted.
std::string require_criu(bool lazy) {
  // Also where it is not needed: what CRIU learns by it is learnt before the box is frozen.
  const bool can_be_lazy = box::can_restore_lazily();
  if (lazy && !can_be_lazy)
    throw base::error("the kernel of {} has no userfaultfd, so memory cannot follow a box there", here())
        .hint("choose another node, or --mode stop");
  const std::string criu = box::criu_version();
  const auto kernel = kernel_version();
  // Linux 6.16 answers EOPNOTSUPP to an option that older CRIU reads from each socket, and 6.13
  // changed the vDSO's layout.
  const auto needed = kernel >= std::pair(6, 16)   ? std::tuple(4, 2, 0)
                      : kernel >= std::pair(6, 13) ? std::tuple(4, 1, 0)
                                                   : std::tuple(4, 0, 0);
  if (version_numbers(criu) < needed)
    throw base::error("CRIU {} on {} is too old for its kernel {}.{}", criu, here(), kernel.first,
                      kernel.second)
        .hint(std::format("install CRIU {}.{} or newer there", std::get<0>(needed), std::get<1>(needed)));
  if (std::stoll(base::read_file("/proc/sys/fs/pipe-user-pages-soft")) != 0)
    throw base::error("{} limits the pipes of a user, so CRIU cannot make a box's pipes again there", here())
        .hint("on that node: sysctl -w fs.pipe-user-pages-soft=0");
  if (lazy && base::read_file("/proc/sys/vm/unprivileged_userfaultfd") != "1\n")
    throw base::error("{} lets no box use userfaultfd, so memory cannot follow a box there", here())
        .hint("on that node: sysctl -w vm.unprivileged_userfaultfd=1");
  return criu;
}

std::string missing_flags(const std::vector<std::string>& wanted) {
  const auto have = cpu_flags();
  std::string out;
  for (const auto& flag : wanted)
    if (!std::ranges::binary_search(have, flag)) out += (out.empty() ? "" : " ") + flag;
  return out;
}

std::string megabytes(uint64_t bytes) { return std::to_string((bytes + kMiB - 1) / kMiB) + " MiB"; }

void require_space(const std::string& path, uint64_t needed, const std::string& what) {
  if (uint64_t got = free_bytes(path); got < needed)
    throw base::error("{} has {} free in {}, and {} needs {}", here(), megabytes(got), path, what,
                      megabytes(needed))
        .hint("free some there, or choose another node");
}

/// Bytes, of lines of /proc/PID/smaps_rollup (proc_pid_smaps(5)).
uint64_t rolled_up(const std::vector<pid_t>& pids, std::initializer_list<std::string_view> keys) {
  uint64_t kb = 0;
  for (pid_t pid : pids) {
    std::ifstream in("/proc/" + std::to_string(pid) + "/smaps_rollup");
    for (std::string line; std::getline(in, line);)
      if (std::ranges::any_of(keys, [&](std::string_view key) { return line.starts_with(key); }))
        kb += std::stoull(line.substr(line.find(':') + 1));
  }
  return kb * 1024;
}

}  // namespace

std::vector<std::string> cpu_flags() {
  std::istringstream in(base::read_file("/proc/cpuinfo"));
  std::vector<std::string> out;
  for (std::string line; std::getline(in, line);) {
    if (!line.starts_with("flags")) continue;
    std::istringstream words(line.substr(line.find(':') + 1));
    for (std::string word; words >> word;)
      if (std::ranges::find(kUserFlags, word) != kUserFlags.end()) out.push_back(word);
    break;
  }
  std::ranges::sort(out);
  return out;
}

uint64_t memory_of(const std::vector<pid_t>& pids) { return rolled_up(pids, {"Pss_Anon:"}); }
uint64_t huge_memory_of(const std::vector<pid_t>& pids) { return rolled_up(pids, {"AnonHugePages:"}); }

uint64_t shared_bytes_of(const std::vector<pid_t>& pids) {
  // A file on a tmpfs may be mapped as well, so the two are not added up.
  const uint64_t in_tmpfs = pids.empty() ? 0 : tmpfs_bytes(pids.front());
  return std::max(rolled_up(pids, {"Pss_Shmem:"}), in_tmpfs) + deleted_bytes(pids);
}

uint64_t available_memory() {
  std::istringstream in(base::read_file("/proc/meminfo"));
  for (std::string line; std::getline(in, line);)
    if (line.starts_with("MemAvailable:")) return std::stoull(line.substr(13)) * 1024;
  return 0;
}

Hello inspect_source(const base::Context& context, const box::Status& status, bool lazy) {
  const box::Paths paths = box::paths_of(context, status.config.name);
  const box::Cgroup group(paths.cgroup);
  Hello hello;
  hello.from = here();
  hello.config = status.config;
  hello.lazy = lazy;
  hello.criu = require_criu(lazy);
  hello.cpu_flags = cpu_flags();
  if (auto foreign = box::foreign_processes(group); !foreign.empty()) {
    // That is drover-node, which waits in the box for the command.
    std::string pid = std::to_string(foreign.front());
    const std::string children =
        base::read_file_if_exists("/proc/" + pid + "/task/" + pid + "/children").value_or("");
    if (!children.empty()) pid = children.substr(0, children.find(' '));
    std::string command = base::read_file_if_exists("/proc/" + pid + "/comm").value_or("?\n");
    command.pop_back();
    throw base::error("box {} runs {} (pid {}), which was started from outside by `box exec`",
                      status.config.name, command, pid)
        .hint("end it: its terminal and its parent are on this node and cannot move");
  }
  require_movable(status.config, group.pids(), status.init);
  if (status.config.start.control_groups) box::CgroupTree::check(group);
  hello.memory_bytes = memory_of(group.pids());
  hello.shared_bytes = shared_bytes_of(group.pids());
  hello.private_bytes = disk_usage(box::sent_directory(paths));
  hello.files = mapped_files(group.pids());
  require_space(context.run_dir, hello.image_bytes() + 16 * kMiB, "the memory of box " + status.config.name);
  return hello;
}

void require_no_clash(const base::Context& context, const box::Config& config) {
  if (auto clash = box::find_clash(context, config))
    throw base::error("{} belongs to box {} on {}", clash->value, clash->box, here())
        .hint(clash->what == box::Clash::What::kIds ? "choose another node"
                                                    : "choose another node, or destroy one of the two boxes");
}

void inspect_destination(const base::Context& context, const Hello& hello, From from) {
  const box::Config& config = hello.config;
  const std::string criu = require_criu(hello.lazy);
  if (version_numbers(criu) < version_numbers(hello.criu))
    throw base::error("CRIU {} on {} is older than CRIU {} on {}", criu, here(), hello.criu, hello.from)
        .hint("update the older one: images go from older to newer only");
  if (std::string flags = missing_flags(hello.cpu_flags); !flags.empty())
    throw base::error("the processor of {} lacks what that of {} has: {}", here(), hello.from, flags)
        .hint(
            "programs that chose their code by it would crash; move to a node with the same or a newer "
            "processor");
  if (base::exists(box::paths_of(context, config.name).dir))
    throw base::error("there is a box {} on {} already", config.name, here())
        .hint("destroy it there, or choose another node");
  if (auto given = box::given_epoch(context, config); from == From::kNode && outdated(given, config.epoch))
    throw base::error("{} knows a newer box {} (epoch {}) than this one (epoch {})", here(), config.name,
                      *given, config.epoch)
        .hint("this copy is outdated: look for the node that has the newer one");

  if (config.image_bytes != 0) box::require_images();
  box::bridge_mtu(config.bridge);  // throws where there is none
  require_no_clash(context, config);
  for (const auto& holder : box::probe(config.bridge, config.addresses))
    if (from == From::kFile && holder.mac == config.mac)
      throw base::error("box {} runs already: it answers for {} on the network of {}", config.name,
                        holder.address.host(), here())
          .hint("two copies of it must not run: find the node that has it");
    else if (holder.mac != config.mac)
      throw base::error("address {} is in use on the network of {}, by {}", holder.address.host(), here(),
                        holder.mac.to_string())
          .hint("two machines have this address: find the other one first");

  base::make_directories(context.state_dir, 0700);
  base::make_directories(context.run_dir, 0711);
  require_space(context.state_dir, hello.private_bytes + 64 * kMiB,
                "the private layer of box " + config.name);
  require_space(context.run_dir, hello.image_bytes() + 16 * kMiB, "the memory of box " + config.name);
  // What is in images is there twice for a moment: in them and in the box.
  const uint64_t needed = hello.memory_bytes + hello.shared_bytes + hello.image_bytes() + 64 * kMiB;
  if (uint64_t got = available_memory(); got < needed)
    throw base::error("{} has {} of memory free, and box {} needs {} to be restored", here(), megabytes(got),
                      config.name, megabytes(needed))
        .hint("choose a node with more memory");
}

nlohmann::json Hello::json() const {
  return {{"protocol", kProtocol},
          {"want", "move"},
          {"id", id},
          {"from", from},
          {"box", config.render()},
          {"criu", criu},
          {"cpu_flags", cpu_flags},
          {"memory_bytes", memory_bytes},
          {"shared_bytes", shared_bytes},
          {"private_bytes", private_bytes},
          {"lazy", lazy},
          {"dry_run", dry_run},
          {"files", files}};
}

Hello Hello::parse(const nlohmann::json& json) {
  Hello h;
  try {
    h.id = json.at("id");
    h.from = json.at("from");
    h.criu = json.at("criu");
    h.cpu_flags = json.at("cpu_flags");
    h.memory_bytes = json.at("memory_bytes");
    h.shared_bytes = json.value("shared_bytes", uint64_t{0});  // files of older versions have none
    h.private_bytes = json.at("private_bytes");
    h.lazy = json.at("lazy");
    h.dry_run = json.at("dry_run");
    h.files = json.value("files", h.files);
    h.config = box::Config::parse(json.at("box").get<std::string>());
  } catch (const nlohmann::json::exception&) {
    throw base::error("the other node's greeting lacks something, or it is of the wrong type");
  }
  if (h.id.size() != 32 || h.id.find_first_not_of("0123456789abcdef") != std::string::npos)
    throw base::error("the other node's greeting has no id for the move");
  // What follows adds to these.
  for (const uint64_t bytes : {h.memory_bytes, h.shared_bytes, h.private_bytes})
    if (bytes > kMostBytes)
      throw base::error("the other node's greeting has {} bytes, which nobody has", bytes);
  if (h.config.epoch > box::kMostEpoch / 2)
    throw base::error("the other node's greeting has the epoch {}", h.config.epoch);
  // It is shown, and given to ssh.
  if (h.from.empty() || h.from.size() > kMostHostName || h.from.starts_with('-') ||
      !std::ranges::all_of(h.from, [](char c) { return c > ' ' && c < 0x7f; }))
    throw base::error("the other node's greeting has no host name");
  return h;
}

}  // namespace migrate
