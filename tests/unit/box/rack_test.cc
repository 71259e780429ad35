// What the tests of a box's network stand on; it has no tests of its own.
#include "tests/unit/box/rack.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <format>

#include "base/error.h"
#include "box/netns.h"
#include "box/network.h"

namespace rack {

base::Fd this_netns() { return base::open("/proc/thread-self/ns/net", O_RDONLY); }

base::Fd new_netns() {
  base::Pipe ready = base::make_pipe(), done = base::make_pipe();
  const pid_t child = fork();
  if (child == 0) {
    char byte = unshare(CLONE_NEWUSER | CLONE_NEWNET) == 0 ? 'y' : 'n';
    done.write.close();
    if (write(ready.write.get(), &byte, 1) == 1) (void)!read(done.read.get(), &byte, 1);
    _exit(0);
  }
  char byte = 'n';
  (void)!read(ready.read.get(), &byte, 1);
  if (byte != 'y') throw base::error("no user namespace to be had");
  base::Fd netns = base::open(std::format("/proc/{}/ns/net", child), O_RDONLY);
  done.write.close();
  waitpid(child, nullptr, 0);
  return netns;
}

void Rack::SetUp() {
  if (geteuid() != 0) GTEST_SKIP() << "needs root: it makes network namespaces";
  ASSERT_EQ(unshare(CLONE_NEWNET), 0);
  // One CPU: frames sent one after the other arrive in that order.
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(sched_getcpu(), &one);
  ASSERT_EQ(sched_setaffinity(0, sizeof one, &one), 0);
  // A bridge that shows its frames to iptables cuts off what lies behind an IP packet, and drops strange
  // ones.
  for (const std::string key : {"iptables", "ip6tables", "arptables"})
    if (const std::string path = "/proc/sys/net/bridge/bridge-nf-call-" + key; base::exists(path))
      base::write_file(path, "0");
  // Without snooping the bridge passes every multicast frame on, so that its arrival shows the firewall's
  // work.
  run({"ip", "link", "add", "br0", "type", "bridge", "mcast_snooping", "0"});
  run({"ip", "link", "set", "br0", "up"});
  run({"ip", "address", "add", "10.77.0.1/24", "dev", "br0"});
  run({"ip", "address", "add", "fd77::1/64", "dev", "br0", "nodad"});
}

Host Rack::plug(const std::string& name, const std::string& mac, const std::vector<std::string>& addresses,
                const std::vector<std::string>& gateways) {
  Host host{box::host_end_name(name), new_netns(), box::Mac::parse(mac), {}};
  for (const std::string& address : addresses) host.addresses.push_back(box::Address::parse(address));
  box::Eth0 eth0{host.mac, host.addresses, {}};
  for (const std::string& gateway : gateways) eth0.gateways.push_back(box::Address::parse(gateway));
  box::create_veth(host.host_end, box::other_end_name(name), box::bridge_mtu("br0"));
  box::attach_to_bridge(host.host_end, "br0");
  box::move_into(box::other_end_name(name), host.netns.get(), eth0);
  box::set_up(host.host_end);
  EXPECT_TRUE(box::wait_for_carrier(host.host_end, host.netns.get(), std::chrono::seconds(5)));
  return host;
}

void Rack::run(const std::vector<std::string>& argv) { runner_.run({.argv = argv}); }

int Rack::run_in(const Host& host, const std::vector<std::string>& argv) {
  int status = -1;
  box::in_netns(host.netns.get(), [&] { status = runner_.run_any({.argv = argv}).status; });
  return status;
}

bool Rack::pings(const Host& from, const std::string& address, int seconds) {
  return run_in(from, {"ping", "-n", "-i", "0.2", "-c", "1", "-w", std::to_string(seconds), address}) == 0;
}

Tap::Tap(int netns_fd, const std::string& link) {
  box::in_netns(netns_fd, [&] {
    fd_ = base::Fd(socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0));
    sockaddr_ll where = {};
    where.sll_family = AF_PACKET;
    where.sll_protocol = htons(ETH_P_ALL);
    where.sll_ifindex = static_cast<int>(if_nametoindex(link.c_str()));
    if (bind(fd_.get(), reinterpret_cast<sockaddr*>(&where), sizeof where) != 0)
      throw base::sys_error("no tap on {}", link);
  });
}

void Tap::send(const Bytes& frame) const {
  if (::send(fd_.get(), frame.data(), frame.size(), 0) != static_cast<ssize_t>(frame.size()))
    throw base::sys_error("cannot send a frame of {} bytes", frame.size());
}

std::optional<Bytes> Tap::next(std::chrono::milliseconds timeout, bool outgoing) const {
  const auto deadline = std::chrono::steady_clock::now() + timeout;
  for (;;) {
    const auto left =
        std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
    pollfd waiting = {fd_.get(), POLLIN, 0};
    if (poll(&waiting, 1, static_cast<int>(std::max<long>(left.count(), 0))) <= 0) return std::nullopt;
    Bytes frame(65536);
    sockaddr_ll from = {};
    socklen_t length = sizeof from;
    const ssize_t got =
        recvfrom(fd_.get(), frame.data(), frame.size(), 0, reinterpret_cast<sockaddr*>(&from), &length);
    if (got < 0) throw base::sys_error("cannot receive");
    if ((from.sll_pkttype == PACKET_OUTGOING) != outgoing) continue;
    frame.resize(static_cast<size_t>(got));
    return frame;
  }
}

void Tap::drain() const {
  while (next(std::chrono::milliseconds(0))) {
  }
}

Bytes operator+(Bytes left, const Bytes& right) {
  left.insert(left.end(), right.begin(), right.end());
  return left;
}

Bytes hex(std::string_view characters) {
  std::string digits;
  for (const char c : characters)
    if (isxdigit(static_cast<unsigned char>(c)) != 0) digits += c;
  Bytes bytes;
  for (size_t i = 0; i + 1 < digits.size(); i += 2)
    bytes.push_back(static_cast<uint8_t>(std::stoul(digits.substr(i, 2), nullptr, 16)));
  return bytes;
}

std::string to_hex(const Bytes& bytes) {
  std::string digits;
  for (const uint8_t byte : bytes) digits += std::format("{:02x}", byte);
  return digits;
}

Bytes text(std::string_view characters) { return {characters.begin(), characters.end()}; }

namespace {

Bytes word(unsigned value) { return {static_cast<uint8_t>(value >> 8), static_cast<uint8_t>(value & 0xff)}; }
void set_word(Bytes& bytes, size_t at, unsigned value) {
  bytes[at] = static_cast<uint8_t>(value >> 8);
  bytes[at + 1] = static_cast<uint8_t>(value & 0xff);
}

}  // namespace

unsigned ones_sum(const Bytes& bytes) {
  unsigned sum = 0;
  for (size_t i = 0; i < bytes.size(); i += 2)
    sum += static_cast<unsigned>(bytes[i] << 8 | (i + 1 < bytes.size() ? bytes[i + 1] : 0));
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >> 16);
  return sum;
}

Bytes ip(std::string_view address) {
  const bool v6 = address.find(':') != std::string_view::npos;
  Bytes bytes(v6 ? 16 : 4);
  if (inet_pton(v6 ? AF_INET6 : AF_INET, std::string(address).c_str(), bytes.data()) != 1)
    throw base::error("{} is no address", address);
  return bytes;
}

Bytes ether(std::string_view to, std::string_view from, unsigned type, const Bytes& payload) {
  return hex(to) + hex(from) + word(type) + payload;
}

Bytes arp(unsigned operation, std::string_view sender_mac, std::string_view sender,
          std::string_view target_mac, std::string_view target) {
  return hex("0001 0800 06 04") + word(operation) + hex(sender_mac) + ip(sender) + hex(target_mac) +
         ip(target);
}

Bytes ipv4(std::string_view from, std::string_view to, unsigned protocol, const Bytes& payload) {
  Bytes header = hex("45 00") + word(static_cast<unsigned>(20 + payload.size())) + hex("0001 0000 40") +
                 Bytes{static_cast<uint8_t>(protocol), 0, 0} + ip(from) + ip(to);
  set_word(header, 10, 0xffff - ones_sum(header));
  return header + payload;
}

Bytes udp(unsigned from, unsigned to, const Bytes& payload) {
  return word(from) + word(to) + word(static_cast<unsigned>(8 + payload.size())) + word(0) + payload;
}

Bytes ipv6(std::string_view from, std::string_view to, unsigned next_header, const Bytes& payload) {
  return hex("60000000") + word(static_cast<unsigned>(payload.size())) +
         Bytes{static_cast<uint8_t>(next_header), 255} + ip(from) + ip(to) + payload;
}

Bytes icmpv6(std::string_view from, std::string_view to, const Bytes& message) {
  Bytes filled = message;
  set_word(filled, 2, 0);
  const Bytes pseudo =
      ip(from) + ip(to) + word(0) + word(static_cast<unsigned>(message.size())) + word(0) + word(58);
  set_word(filled, 2, 0xffff - ones_sum(pseudo + filled));
  return ipv6(from, to, 58, filled);
}

}  // namespace rack
