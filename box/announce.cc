#include "box/announce.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <linux/filter.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <format>
#include <initializer_list>
#include <memory>
#include <optional>
#include <span>
#include <utility>

#include "base/error.h"
#include "base/fd.h"
#include "box/netns.h"
#include "box/network.h"

namespace box {

namespace {

using Bytes = std::vector<uint8_t>;
using std::chrono::steady_clock;

constexpr Mac kBroadcast = {{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}};
constexpr uint8_t kArpRequest = 1, kArpReply = 2;
constexpr uint8_t kSolicitation = 135, kAdvertisement = 136;  // RFC 4861, 4.3 and 4.4
constexpr uint8_t kOverride = 0x20;
constexpr size_t kIpv6 = 14, kIcmpv6 = kIpv6 + 40, kNdTarget = kIcmpv6 + 8, kNdOption = kNdTarget + 16;

void put(Bytes& frame, std::span<const uint8_t> bytes) {
  frame.insert(frame.end(), bytes.begin(), bytes.end());
}
void put(Bytes& frame, std::initializer_list<uint8_t> bytes) { frame.insert(frame.end(), bytes); }

// --- frames

/// RFC 826. `sender` may be 0.0.0.0 (a probe).
Bytes arp(uint8_t operation, const Mac& mac, std::span<const uint8_t> sender, const Mac& target_mac,
          std::span<const uint8_t> target) {
  Bytes frame;
  put(frame, kBroadcast.bytes);
  put(frame, mac.bytes);
  put(frame, {0x08, 0x06, 0, 1, 0x08, 0x00, 6, 4, 0, operation});
  put(frame, mac.bytes);
  put(frame, sender.first(4));
  put(frame, target_mac.bytes);
  put(frame, target.first(4));
  return frame;
}

/// RFC 4443, 2.3: over the pseudo-header (addresses, length, 58) and the message.
uint16_t checksum(const Bytes& frame) {
  uint32_t sum = static_cast<uint32_t>(frame.size() - kIcmpv6) + IPPROTO_ICMPV6;
  for (size_t i = kIpv6 + 8; i < frame.size(); i += 2)
    sum += static_cast<uint32_t>(frame[i] << 8 | (i + 1 < frame.size() ? frame[i + 1] : 0));
  while (sum >> 16 != 0) sum = (sum & 0xffff) + (sum >> 16);
  return static_cast<uint16_t>(~sum);
}

/// A neighbour solicitation or advertisement: to an IPv6 multicast address, whose MAC is
/// 33:33 and its last four bytes (RFC 2464).
Bytes neighbour(uint8_t type, uint8_t flags, const Mac& mac, std::span<const uint8_t> source,
                std::span<const uint8_t> group, std::span<const uint8_t> target, bool with_option) {
  const uint8_t length = with_option ? 32 : 24;
  Bytes frame;
  put(frame, {0x33, 0x33});
  put(frame, group.last(4));
  put(frame, mac.bytes);
  put(frame, {0x86, 0xdd, 0x60, 0, 0, 0, 0, length, IPPROTO_ICMPV6, 255});
  put(frame, source);
  put(frame, group);
  put(frame, {type, 0, 0, 0, flags, 0, 0, 0});
  put(frame, target);
  if (with_option) {
    put(frame, {static_cast<uint8_t>(type == kSolicitation ? 1 : 2), 1});
    put(frame, mac.bytes);
  }
  const uint16_t sum = checksum(frame);
  frame[kIcmpv6 + 2] = static_cast<uint8_t>(sum >> 8);
  frame[kIcmpv6 + 3] = static_cast<uint8_t>(sum & 0xff);
  return frame;
}

Bytes advertisement(const Mac& mac, const Address& address) {
  constexpr std::array<uint8_t, 16> kAllNodes = {0xff, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1};
  return neighbour(kAdvertisement, kOverride, mac, address.bytes, kAllNodes, address.bytes, true);
}

/// To ff02::1:ff00:0/104 with the last three bytes of the address (RFC 4291, 2.7.1). From the
/// unspecified address it must not carry an option (RFC 4861, 4.3).
Bytes solicitation(const Mac& mac, const std::optional<Address>& source, const Address& target) {
  std::array<uint8_t, 16> group = {0xff, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff};
  std::copy_n(target.bytes.begin() + 13, 3, group.begin() + 13);
  return neighbour(kSolicitation, 0, mac, source.value_or(Address{}).bytes, group, target.bytes,
                   source.has_value());
}

// --- sockets

/// A packet socket on one interface in the calling thread's namespace.
class Wire {
 public:
  /// `protocol`: the EtherType that it receives; 0 for none. `filter` stands before the first frame can
  /// come in.
  Wire(const std::string& link, uint16_t protocol, std::span<sock_filter> filter = {})
      : link_(link), fd_(socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)) {
    if (!fd_) throw base::sys_error("cannot open a packet socket on {}", link);
    if (!filter.empty()) {
      const sock_fprog program = {static_cast<unsigned short>(filter.size()), filter.data()};
      if (setsockopt(fd_.get(), SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program) != 0)
        throw base::sys_error("cannot filter a packet socket on {}", link);
    }
    sockaddr_ll where = {};
    where.sll_family = AF_PACKET;
    where.sll_protocol = htons(protocol);
    where.sll_ifindex = static_cast<int>(if_nametoindex(link.c_str()));
    if (where.sll_ifindex == 0) throw base::error("there is no interface {}", link);
    if (bind(fd_.get(), reinterpret_cast<const sockaddr*>(&where), sizeof where) != 0)
      throw base::sys_error("cannot use {}", link);
  }

  [[nodiscard]] int fd() const { return fd_.get(); }
  base::Fd release() && { return std::move(fd_); }
  void send(const Bytes& frame) const {
    if (::send(fd_.get(), frame.data(), frame.size(), 0) != static_cast<ssize_t>(frame.size()))
      throw base::sys_error("cannot send on {}", link_);
  }
  /// The next frame that is waiting; nullopt when there is none.
  [[nodiscard]] std::optional<Bytes> receive() const {
    Bytes frame(2048);
    const ssize_t got = recv(fd_.get(), frame.data(), frame.size(), 0);
    if (got < 0) {
      if (errno == EAGAIN || errno == EINTR) return std::nullopt;
      throw base::sys_error("cannot receive on {}", link_);
    }
    frame.resize(static_cast<size_t>(got));
    return frame;
  }

 private:
  std::string link_;
  base::Fd fd_;
};

/// The first `at + length` bytes are there and hold these at `at`.
bool holds(const Bytes& frame, size_t at, std::span<const uint8_t> bytes) {
  return frame.size() >= at + bytes.size() &&
         std::equal(bytes.begin(), bytes.end(), frame.begin() + static_cast<long>(at));
}

Mac mac_at(const Bytes& frame, size_t at) {
  Mac mac;
  std::copy_n(frame.begin() + static_cast<long>(at), 6, mac.bytes.begin());
  return mac;
}

/// Who says in this frame that the address is his.
std::optional<Mac> claims(const Bytes& frame, const Address& address) {
  // Request or reply: the operation's low byte is left out.
  constexpr std::array<uint8_t, 9> kArp = {0x08, 0x06, 0, 1, 0x08, 0x00, 6, 4, 0};
  if (address.is_v4()) {
    if (frame.size() < 42 || !holds(frame, 12, kArp)) return std::nullopt;
    if (!holds(frame, 28, std::span(address.bytes).first(4))) return std::nullopt;
    return mac_at(frame, 22);
  }
  constexpr std::array<uint8_t, 2> kIp6 = {0x86, 0xdd};
  if (frame.size() < kNdOption || !holds(frame, 12, kIp6)) return std::nullopt;
  if (frame[kIpv6 + 6] != IPPROTO_ICMPV6 || frame[kIcmpv6] != kAdvertisement) return std::nullopt;
  if (!holds(frame, kNdTarget, address.bytes)) return std::nullopt;
  constexpr std::array<uint8_t, 2> kTargetLinkLayer = {2, 1};
  const bool has_option = frame.size() >= kNdOption + 8 && holds(frame, kNdOption, kTargetLinkLayer);
  return mac_at(frame, has_option ? kNdOption + 2 : 6);
}

/// What the kernel knows about the bridge.
struct Bridge {
  Mac mac;
  std::optional<Address> link_local;
  std::vector<Address> addresses;
};

Bridge look_at(const std::string& bridge) {
  ifaddrs* list = nullptr;
  if (getifaddrs(&list) != 0) throw base::sys_error("cannot list the node's addresses");
  const std::unique_ptr<ifaddrs, decltype(&freeifaddrs)> owner(list, freeifaddrs);
  Bridge found;
  bool seen = false;
  for (const ifaddrs* at = list; at != nullptr; at = at->ifa_next) {
    if (bridge != at->ifa_name || at->ifa_addr == nullptr) continue;
    Address address;
    address.family = at->ifa_addr->sa_family;
    if (address.family == AF_PACKET) {
      seen = true;
      if ((at->ifa_flags & IFF_UP) == 0)
        throw base::error("the bridge {} is down", bridge).hint(std::format("ip link set {} up", bridge));
      std::copy_n(reinterpret_cast<const sockaddr_ll*>(at->ifa_addr)->sll_addr, 6, found.mac.bytes.begin());
    } else if (address.family == AF_INET) {
      const auto* raw =
          reinterpret_cast<const uint8_t*>(&reinterpret_cast<const sockaddr_in*>(at->ifa_addr)->sin_addr);
      std::copy_n(raw, 4, address.bytes.begin());
      found.addresses.push_back(address);
    } else if (address.family == AF_INET6) {
      std::copy_n(reinterpret_cast<const sockaddr_in6*>(at->ifa_addr)->sin6_addr.s6_addr, 16,
                  address.bytes.begin());
      found.addresses.push_back(address);
      if (address.bytes[0] == 0xfe && (address.bytes[1] & 0xc0) == 0x80) found.link_local = address;
    }
  }
  if (!seen) throw base::error("there is no bridge {} on this node", bridge);
  return found;
}

}  // namespace

base::Fd announce(int netns_fd, const Mac& mac, const std::vector<Address>& addresses) {
  base::Fd used;
  in_netns(netns_fd, [&] {
    if (!is_set_up("eth0")) return;
    Wire wire("eth0", 0);
    bool v6 = false;
    std::optional<Address> v4;
    for (const Address& address : addresses) {
      const std::span<const uint8_t> ip = address.bytes;
      if (address.is_v4()) {
        v4 = v4.value_or(address);
        wire.send(arp(kArpRequest, mac, ip, Mac{}, ip));
        wire.send(arp(kArpReply, mac, ip, kBroadcast, ip));
      } else {
        wire.send(advertisement(mac, address));
        v6 = true;
      }
    }
    if (v6) wire.send(advertisement(mac, mac.link_local()));
    for (const Address& asked : unanswered_lookups("eth0")) {
      if (asked.is_v4() && v4) wire.send(arp(kArpRequest, mac, v4->bytes, Mac{}, asked.bytes));
      if (!asked.is_v4() && v6) wire.send(solicitation(mac, mac.link_local(), asked));
    }
    used = std::move(wire).release();
  });
  return used;
}

std::vector<Holder> probe(const std::string& bridge, const std::vector<Address>& addresses,
                          std::chrono::milliseconds timeout) {
  const Bridge own = look_at(bridge);
  std::vector<Holder> holders;
  std::vector<Address> open = addresses;
  const auto answered = [&](const Address& address, const Mac& mac) {
    if (std::erase_if(open, [&](const Address& a) { return a.same_host(address); }) > 0)
      holders.push_back({address, mac});
  };
  for (const Address& address : own.addresses) answered(address, own.mac);

  // Only neighbour advertisements: a node's bridge may carry a lot of IPv6.
  std::array<sock_filter, 6> advertisements = {{
      BPF_STMT(BPF_LD | BPF_B | BPF_ABS, kIpv6 + 6),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, IPPROTO_ICMPV6, 0, 3),
      BPF_STMT(BPF_LD | BPF_B | BPF_ABS, kIcmpv6),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, kAdvertisement, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, 2048),
      BPF_STMT(BPF_RET | BPF_K, 0),
  }};
  const Wire v4(bridge, ETH_P_ARP), v6(bridge, ETH_P_IPV6, advertisements);
  const auto ask = [&] {
    const std::array<uint8_t, 4> nobody = {};
    for (const Address& address : open) {
      if (address.is_v4())
        v4.send(arp(kArpRequest, own.mac, nobody, Mac{}, address.bytes));
      else
        v6.send(solicitation(own.mac, own.link_local, address));
    }
  };

  const auto start = steady_clock::now(), deadline = start + timeout;
  auto ask_again = start;
  bool asked_twice = false;
  while (!open.empty() && steady_clock::now() < deadline) {
    if (!asked_twice && steady_clock::now() >= ask_again) {
      ask();
      asked_twice = ask_again != start;
      ask_again = start + timeout / 2;
    }
    const auto until = asked_twice ? deadline : std::min(ask_again, deadline);
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(until - steady_clock::now());
    std::array<pollfd, 2> waiting = {{{v4.fd(), POLLIN, 0}, {v6.fd(), POLLIN, 0}}};
    if (poll(waiting.data(), waiting.size(), static_cast<int>(std::max<long>(left.count(), 0))) < 0 &&
        errno != EINTR)
      throw base::sys_error("cannot wait for answers on {}", bridge);
    for (const Wire* wire : {&v4, &v6})
      while (const std::optional<Bytes> frame = wire->receive())
        for (const Address& address : std::vector(open))
          if (const std::optional<Mac> mac = claims(*frame, address)) answered(address, *mac);
  }
  return holders;
}

}  // namespace box
