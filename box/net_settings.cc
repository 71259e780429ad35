#include "box/net_settings.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <format>
#include <memory>
#include <optional>
#include <sstream>
#include <string_view>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/fd.h"
#include "box/config.h"
#include "box/netns.h"

namespace box {
namespace {

constexpr size_t kMostPath = 128;
constexpr size_t kMostValue = 4096;
// icmp(7): two group ids, in the numbers of who reads and writes it.
constexpr std::string_view kGroups = "ipv4/ping_group_range";

base::Fd settings_dir() { return base::open("/proc/sys/net", O_RDONLY | O_DIRECTORY); }

/// nullopt for what has no value now, such as a secret that was never set.
std::optional<std::string> read_value(int dir, const char* name) {
  const base::Fd fd(::openat(dir, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  std::array<char, kMostValue> value;
  const ssize_t n = fd ? ::read(fd.get(), value.data(), value.size()) : -1;
  if (n < 0) return std::nullopt;
  std::string text(value.data(), static_cast<size_t>(n));
  while (!text.empty() && (text.back() == '\n' || text.back() == '\0')) text.pop_back();
  return text;
}

void read_below(int dir, const std::string& prefix, NetSettings& found) {
  const std::unique_ptr<DIR, int (*)(DIR*)> entries(::fdopendir(base::duplicate(dir).release()), ::closedir);
  if (!entries) throw base::sys_error("cannot read /proc/sys/net/{}", prefix);
  while (const dirent* e = ::readdir(entries.get())) {
    if (e->d_name[0] == '.') continue;
    if (e->d_type == DT_DIR) {
      const base::Fd inner = base::open_at(dir, e->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
      read_below(inner.get(), prefix + e->d_name + "/", found);
      continue;
    }
    struct stat s{};
    if (::fstatat(dir, e->d_name, &s, AT_SYMLINK_NOFOLLOW) != 0 || (s.st_mode & 0600) != 0600) continue;
    if (auto value = read_value(dir, e->d_name)) found[prefix + e->d_name] = std::move(*value);
  }
}

/// The same groups with other numbers; nullopt where they are none of the box's. No group is "1 0".
std::optional<std::string> moved_groups(const std::string& value, int64_t by, int64_t first, int64_t last) {
  std::istringstream in(value);
  int64_t low = 0, high = 0;
  if (!(in >> low >> high)) return std::nullopt;
  if (low > high) return "1\t0";
  if (low < first || high > last) return std::nullopt;
  return std::format("{}\t{}", low + by, high + by);
}

/// 0, or an errno.
int write_value(int dir, const std::string& path, const std::string& value) {
  const base::Fd fd(::openat(dir, path.c_str(), O_WRONLY | O_CLOEXEC | O_NOFOLLOW));
  if (!fd) return errno;
  return ::write(fd.get(), value.data(), value.size()) < 0 ? errno : 0;
}

}  // namespace

NetSettings read_net_settings(int netns_fd, uint32_t id_base) {
  NetSettings found;
  in_netns(netns_fd, [&] { read_below(settings_dir().get(), "", found); });
  if (const auto at = found.find(std::string(kGroups)); at != found.end()) {
    const int64_t base = id_base;
    if (auto inner = moved_groups(at->second, -base, base, base + kIdCount - 1))
      at->second = *inner;
    else
      found.erase(at);
  }
  return found;
}

void write_net_settings(const NetSettings& settings, uint32_t id_base) {
  const base::Fd dir = settings_dir();
  // In the order of their names: what is for all devices, and changes each of them, comes first.
  std::vector<std::pair<std::string, std::string>> wanted(settings.begin(), settings.end()), again;
  for (auto& [path, value] : wanted) {
    if (path != kGroups) continue;
    auto outer = moved_groups(value, id_base, 0, kIdCount - 1);
    if (!outer) throw base::error("the box's network has a value for {} that is none", path);
    value = *outer;
  }
  // A secret changes how addresses are made.
  std::ranges::stable_partition(
      wanted, [](const auto& setting) { return setting.first.ends_with("/stable_secret"); });
  // Some are bounds of each other, and may have to be set in the other order.
  for (const bool last : {false, true}) {
    for (auto& [path, value] : wanted) {
      if (read_value(dir.get(), path.c_str()) == value) continue;
      const int failure = write_value(dir.get(), path, value);
      if (failure == 0 || failure == EACCES || failure == ENOENT) continue;
      if (last)
        throw base::Error(std::format("cannot set the box's net/{} to {}", path, value), failure)
            .hint("this node's kernel may lack what the box uses, or is an older one");
      again.emplace_back(path, value);
    }
    wanted = std::exchange(again, {});
  }
}

void check_net_setting(const std::string& path, const std::string& value) {
  const auto plain = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '-' || c == '/' || c == '.';
  };
  if (path.empty() || path.size() > kMostPath || path.front() == '/' || !std::ranges::all_of(path, plain) ||
      path.starts_with('.') || path.contains("/.") || path.contains("//") || path.back() == '/')
    throw base::error("the box's network has a setting that is none");
  if (value.size() > kMostValue ||
      !std::ranges::all_of(value, [](char c) { return c == '\t' || c == '\n' || (c >= ' ' && c < 0x7f); }))
    throw base::error("the box's network has a value for {} that is none", path);
}

}  // namespace box
