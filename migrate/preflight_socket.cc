#include "migrate/preflight_socket.h"

#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <sstream>
#include <vector>

#include "base/fd.h"

namespace migrate {
namespace {

template <class T>
std::optional<T> socket_option(int fd, int level, int name, T value = {}) {
  socklen_t size = sizeof value;
  if (::getsockopt(fd, level, name, &value, &size) != 0) return std::nullopt;
  return value;
}

/// A copy of another process's descriptor, to ask the kernel what it is.
base::Fd copy_of(pid_t pid, const std::string& fd) {
  const base::Fd process(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  return base::Fd(static_cast<int>(::syscall(SYS_pidfd_getfd, process.get(), std::stoi(fd), 0)));
}

/// A multicast group that a network namespace hears on one of its interfaces.
struct Group {
  uint32_t interface;
  sockaddr_storage address;
};

/// All of them, as /proc/net/igmp and /proc/net/igmp6 write them.
std::vector<Group> groups_of(pid_t pid, int family) {
  std::vector<Group> groups;
  std::ifstream in("/proc/" + std::to_string(pid) + (family == AF_INET ? "/net/igmp" : "/net/igmp6"));
  uint32_t interface = 0;
  for (std::string line; std::getline(in, line);) {
    std::istringstream words(line);
    std::string first, device, address;
    words >> first >> device >> address;
    sockaddr_storage storage{};
    if (family == AF_INET &&
        line.starts_with('\t')) {  // below its interface, a number in the machine's order
      auto& v4 = reinterpret_cast<sockaddr_in&>(storage);
      v4.sin_family = AF_INET;
      v4.sin_addr.s_addr = static_cast<uint32_t>(std::strtoul(first.c_str(), nullptr, 16));
      groups.push_back({interface, storage});
      continue;
    }
    interface = static_cast<uint32_t>(std::strtoul(first.c_str(), nullptr, 10));
    if (family == AF_INET || address.size() != 32) continue;
    auto& v6 = reinterpret_cast<sockaddr_in6&>(storage);
    v6.sin6_family = AF_INET6;
    for (size_t i = 0; i < 16; ++i)
      v6.sin6_addr.s6_addr[i] =
          static_cast<uint8_t>(std::strtoul(address.substr(2 * i, 2).c_str(), nullptr, 16));
    groups.push_back({interface, storage});
  }
  return groups;
}

/// Whether a socket has joined one of the groups (EADDRNOTAVAIL where it has not).
bool has_joined(int fd, int family, const std::vector<Group>& groups) {
  return std::ranges::any_of(groups, [&](const Group& group) {
    group_filter filter{};
    filter.gf_interface = group.interface;
    filter.gf_group = group.address;
    socklen_t size = sizeof filter;
    return ::getsockopt(fd, family == AF_INET ? IPPROTO_IP : IPPROTO_IPV6, MCAST_MSFILTER, &filter, &size) ==
           0;
  });
}

}  // namespace

std::optional<Verdict> look_at_socket(pid_t pid, const std::string& number) {
  const base::Fd fd = copy_of(pid, number);
  const auto family = socket_option<int>(fd.get(), SOL_SOCKET, SO_DOMAIN),
             type = socket_option<int>(fd.get(), SOL_SOCKET, SO_TYPE),
             protocol = socket_option<int>(fd.get(), SOL_SOCKET, SO_PROTOCOL);
  if (!family || !type || !protocol) return std::nullopt;  // closed meanwhile
  switch (*family) {
    case AF_UNIX:
    case AF_PACKET:
    case AF_NETLINK:
      return std::nullopt;
    case AF_INET:
    case AF_INET6:
      if (*type == SOCK_RAW || *protocol == IPPROTO_TCP) return std::nullopt;
      if (*protocol == IPPROTO_UDP || *protocol == IPPROTO_UDPLITE) {
        if (has_joined(fd.get(), *family, groups_of(pid, *family)))
          return Verdict{cannot("has joined a multicast group")};
        return std::nullopt;
      }
      if (*protocol == IPPROTO_MPTCP)
        return Verdict{
            cannot("uses multipath TCP"),
            "start it with plain TCP: a Go program with GODEBUG=multipathtcp=0 in its environment, or "
            "all of the box after `sysctl -w net.mptcp.enabled=0` in it"};
      return Verdict{cannot(*protocol == IPPROTO_ICMP || *protocol == IPPROTO_ICMPV6
                                ? "has a socket for pings"
                                : "has a socket of IP protocol " + std::to_string(*protocol))};
    case AF_VSOCK:
      return Verdict{cannot("has a socket to the hypervisor (AF_VSOCK)")};
    case AF_ALG:
      return Verdict{cannot("uses the kernel's cryptography (AF_ALG)")};
    default:
      return Verdict{cannot("has a socket of address family " + std::to_string(*family))};
  }
}

}  // namespace migrate
