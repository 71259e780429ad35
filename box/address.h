#pragma once
#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace box {

/// An IPv4 or IPv6 address that a box or a gateway may have, with or without a prefix length.
struct Address {
  int family = 0;                      ///< AF_INET or AF_INET6
  std::array<uint8_t, 16> bytes = {};  ///< network order; an IPv4 address uses the first four
  std::optional<unsigned> prefix;      ///< length in bits

  /// "10.77.0.10/24", "fd77::10/64", or the same without a length. What no box can have (multicast,
  /// loopback, unspecified, IPv4-mapped; a network's own or its broadcast address) is an Error
  /// that names it as such.
  static Address parse(std::string_view text);
  /// The same address in a network of that length; refuses what parse refuses.
  [[nodiscard]] Address with_prefix(unsigned length) const;

  [[nodiscard]] bool is_v4() const;
  [[nodiscard]] unsigned max_prefix() const { return is_v4() ? 32 : 128; }
  [[nodiscard]] std::string host() const;       ///< "10.77.0.10"
  [[nodiscard]] std::string to_string() const;  ///< "10.77.0.10/24", or host() without a prefix length
  /// The same family and address, whatever the prefix length.
  [[nodiscard]] bool same_host(const Address& other) const;
  /// `other` lies in this address's network; without a prefix length only the address itself does.
  [[nodiscard]] bool contains(const Address& other) const;

  bool operator==(const Address&) const = default;
};

/// The hardware address of a box's eth0. It stays with the box for life, on every node.
struct Mac {
  std::array<uint8_t, 6> bytes = {};

  /// "02:1a:…" in either case; refuses multicast, broadcast and all zeros.
  static Mac parse(std::string_view text);
  /// A random one: locally administered, unicast, 02:….
  static Mac generate();

  [[nodiscard]] std::string to_string() const;  ///< lower case
  /// fe80::/64 with the modified EUI-64 of this MAC (RFC 4291, appendix A): what the kernel gives
  /// to an interface by itself.
  [[nodiscard]] Address link_local() const;

  bool operator==(const Mac&) const = default;
};

}  // namespace box
