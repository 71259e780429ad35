#pragma once
#include <gtest/gtest.h>

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "base/child.h"
#include "base/fd.h"
#include "box/address.h"

/// A node with a bridge and boxes' namespaces on it, all of it in network namespaces that go with
/// the process: nothing outside is touched.
namespace rack {

using Bytes = std::vector<uint8_t>;

/// Where a box lives as far as the network is concerned.
struct Host {
  std::string host_end;
  base::Fd netns;
  box::Mac mac;
  std::vector<box::Address> addresses;
};

/// A packet socket on one interface: all that passes there, in both directions.
class Tap {
 public:
  Tap(int netns_fd, const std::string& link);
  void send(const Bytes& frame) const;
  /// The next frame that came in, or that was sent when `outgoing`; nullopt when none comes in time.
  std::optional<Bytes> next(std::chrono::milliseconds timeout, bool outgoing = false) const;
  void drain() const;

 private:
  base::Fd fd_;
};

class Rack : public testing::Test {
 protected:
  /// Puts the process into a fresh network namespace with br0 (10.77.0.1/24, fd77::1/64).
  void SetUp() override;
  /// A namespace owned by a user namespace of its own, as a box's is, with a cable to br0.
  Host plug(const std::string& name, const std::string& mac, const std::vector<std::string>& addresses,
            const std::vector<std::string>& gateways = {});
  void run(const std::vector<std::string>& argv);
  int run_in(const Host& host, const std::vector<std::string>& argv);
  /// An answer comes within so many seconds.
  bool pings(const Host& from, const std::string& address, int seconds = 4);

  base::ProcessRunner runner_;
};

base::Fd this_netns();
/// One that belongs to a fresh user namespace.
base::Fd new_netns();

Bytes operator+(Bytes left, const Bytes& right);
/// "02 00 ff", spaces where one likes.
Bytes hex(std::string_view text);
std::string to_hex(const Bytes& bytes);
Bytes text(std::string_view characters);

/// Frames. MACs and addresses as text; `type` is the EtherType.
Bytes ether(std::string_view to, std::string_view from, unsigned type, const Bytes& payload);
Bytes arp(unsigned operation, std::string_view sender_mac, std::string_view sender,
          std::string_view target_mac, std::string_view target);
Bytes ipv4(std::string_view from, std::string_view to, unsigned protocol, const Bytes& payload);
Bytes udp(unsigned from, unsigned to, const Bytes& payload);  ///< without a checksum
Bytes ipv6(std::string_view from, std::string_view to, unsigned next_header, const Bytes& payload);
/// An IPv6 packet with an ICMPv6 message whose checksum is filled in.
Bytes icmpv6(std::string_view from, std::string_view to, const Bytes& message);
Bytes ip(std::string_view address);  ///< 4 or 16 bytes
/// The sum of all 16-bit words and what carries over; 0xffff over a message with a right checksum.
unsigned ones_sum(const Bytes& bytes);

}  // namespace rack
