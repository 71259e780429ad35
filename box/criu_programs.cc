#include "box/criu_programs.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <filesystem>
#include <format>
#include <sstream>

#include "base/fd.h"

namespace box {
namespace {

constexpr const char* kIptables[] = {
    "iptables-save",    "iptables-legacy-save",    "ip6tables-save",    "ip6tables-legacy-save",
    "iptables-restore", "iptables-legacy-restore", "ip6tables-restore", "ip6tables-legacy-restore"};
// criu/net.c, criu/mount.c of 4.2; tar starts the last two.
constexpr const char* kNeeded[] = {"ip", "tar", "gzip", "sh"};

/// A program as execvp(3) would find it.
std::optional<std::string> find_program(const std::vector<std::string>& directories,
                                        const std::string& name) {
  for (const auto& directory : directories)
    if (const std::string path = directory + "/" + name; ::access(path.c_str(), X_OK) == 0) return path;
  return std::nullopt;
}

}  // namespace

void CriuPrograms::use() const {
  if (path) ::setenv("PATH", path->c_str(), 1);
}

CriuPrograms without_iptables(const std::string& path) {
  std::vector<std::string> all, rest;
  std::string shorter;
  std::istringstream in(path);
  for (std::string directory; std::getline(in, directory, ':');) {
    if (directory.empty()) continue;  // the working directory
    all.push_back(directory);
    if (std::ranges::any_of(kIptables,
                            [&](auto* name) { return find_program({directory}, name).has_value(); }))
      continue;
    rest.push_back(directory);
    shorter += (shorter.empty() ? "" : ":") + directory;
  }
  const auto criu = find_program(all, "criu");
  const bool whole =
      std::ranges::all_of(kNeeded, [&](auto* name) { return find_program(rest, name).has_value(); });
  if (!criu || !whole) return {};
  return {*criu, shorter};
}

CriuPrograms without_iptables() {
  const char* path = ::getenv("PATH");
  return without_iptables(path ? path : "");
}

bool has_old_iptables(const std::vector<pid_t>& pids) {
  for (const pid_t pid : pids)  // some may be in network namespaces of their own
    for (const char* names : {"ip_tables_names", "ip6_tables_names"})
      if (const auto tables = base::read_file_if_exists(std::format("/proc/{}/net/{}", pid, names));
          tables && !tables->empty())
        return true;
  return false;
}

bool has_old_iptables(const std::string& images) {
  return std::ranges::any_of(std::filesystem::directory_iterator(images), [](const auto& image) {
    const std::string name = image.path().filename();
    return (name.starts_with("iptables-") || name.starts_with("ip6tables-")) && image.file_size() > 0;
  });
}

}  // namespace box
