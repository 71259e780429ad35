#pragma once
#include <sys/types.h>

#include <optional>
#include <string>
#include <vector>

namespace box {

/// Which programs are found on CRIU's way: libcriu starts CRIU, and that ip, tar and iptables.
struct CriuPrograms {
  std::string criu = "criu";
  std::optional<std::string> path;  ///< for PATH; nullopt: as it is

  void use() const;  ///< sets this process's PATH
};

/// CRIU runs an iptables program up to four times for each family to learn whether it is an old one, and then
/// the old one, if there is: 11 ms of a dump and 8 ms of a restore. Where it finds none it does without. So
/// these are the directories of `path` without those that have any; as it is when there CRIU would lack one
/// of the others that it runs, which are in /usr/bin of a Debian, and iptables in /usr/sbin.
CriuPrograms without_iptables(const std::string& path);
CriuPrograms without_iptables();  ///< of this process's PATH

/// Whether processes have tables of the old iptables (ip_tables of the kernel), which only those programs
/// read and write. What the new ones make is in nf_tables, and with that CRIU deals itself.
bool has_old_iptables(const std::vector<pid_t>& pids);
bool has_old_iptables(const std::string& images);  ///< likewise, whether images hold some

}  // namespace box
