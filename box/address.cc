#include "box/address.h"

#include <arpa/inet.h>
#include <sys/random.h>

#include <algorithm>
#include <charconv>
#include <format>

#include "base/error.h"

namespace box {

namespace {

constexpr std::string_view kHint = "write an address as 10.77.0.10/24 or fd77::10/64";

bool bit(const Address& address, unsigned index) {
  return (address.bytes[index / 8] >> (7 - index % 8) & 1) != 0;
}

/// All bits behind the prefix have this value.
bool host_bits_are(const Address& address, bool value) {
  for (unsigned i = *address.prefix; i < address.max_prefix(); ++i)
    if (bit(address, i) != value) return false;
  return true;
}

/// Why no box can have this address, as the end of the sentence "X is …"; empty when one can.
std::string_view why_not(const Address& address) {
  const auto& b = address.bytes;
  const bool zero = std::ranges::all_of(b, [](uint8_t byte) { return byte == 0; });
  if (address.is_v4()) {
    if (b[0] == 0) return zero ? "the unspecified address" : "an address of \"this network\" (0.0.0.0/8)";
    if (b[0] == 127) return "a loopback address";
    if ((b[0] & 0xf0) == 0xe0) return "a multicast address";
    if (b[0] == 255 && b[1] == 255 && b[2] == 255 && b[3] == 255) return "the broadcast address";
    if ((b[0] & 0xf0) == 0xf0) return "a reserved address (240.0.0.0/4)";
    // A network of 31 bits has two hosts and nothing else (RFC 3021).
    if (!address.prefix || *address.prefix >= 31) return {};
    if (host_bits_are(address, false)) return "its network's own address, not a host's";
    if (host_bits_are(address, true)) return "its network's broadcast address";
    return {};
  }
  if (zero) return "the unspecified address";
  if (b[0] == 0xff) return "a multicast address";
  const bool low = std::all_of(b.begin(), b.begin() + 10, [](uint8_t byte) { return byte == 0; });
  if (low && b[10] == 0xff && b[11] == 0xff) return "an IPv4 address in IPv6 clothes (::ffff:0:0/96)";
  if (std::all_of(b.begin(), b.end() - 1, [](uint8_t byte) { return byte == 0; }) && b[15] == 1)
    return "the loopback address";
  // Zero host bits are the anycast address of the network's routers (RFC 4291, 2.6.1; RFC 6164 for 127).
  if (address.prefix && *address.prefix < 127 && host_bits_are(address, false))
    return "its network's own address, not a host's";
  return {};
}

const Address& checked(const Address& address) {
  const std::string_view why = why_not(address);
  if (!why.empty())
    throw base::error("{} is {}", address.to_string(), why).hint("give the box an address of one host");
  return address;
}

std::optional<unsigned> number(std::string_view text) {
  unsigned value = 0;
  const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (failure != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

}  // namespace

bool Address::is_v4() const { return family == AF_INET; }

Address Address::parse(std::string_view text) {
  const size_t slash = text.find('/');
  const std::string host(text.substr(0, slash));
  Address address;
  // inet_pton stops at a NUL, which a host name's text may hold.
  if (host.find('\0') == std::string::npos) {
    if (inet_pton(AF_INET, host.c_str(), address.bytes.data()) == 1)
      address.family = AF_INET;
    else if (inet_pton(AF_INET6, host.c_str(), address.bytes.data()) == 1)
      address.family = AF_INET6;
  }
  if (address.family == 0)
    throw base::error("'{}' is not an IPv4 or IPv6 address", host).hint(std::string(kHint));
  if (slash == std::string_view::npos) return checked(address);

  const std::string_view digits = text.substr(slash + 1);
  const std::optional<unsigned> length = number(digits);
  if (!length)
    throw base::error("'{}' in '{}' is not a prefix length", digits, text).hint(std::string(kHint));
  return address.with_prefix(*length);
}

Address Address::with_prefix(unsigned length) const {
  if (length == 0 || length > max_prefix())
    throw base::error("/{} is not a prefix length for {}", length, host())
        .hint(std::format("a length from 1 to {}", max_prefix()));
  Address address = *this;
  address.prefix = length;
  return checked(address);
}

std::string Address::host() const {
  std::array<char, INET6_ADDRSTRLEN> text = {};
  if (inet_ntop(family, bytes.data(), text.data(), text.size()) == nullptr) return "(no address)";
  return text.data();
}

std::string Address::to_string() const { return prefix ? std::format("{}/{}", host(), *prefix) : host(); }

bool Address::same_host(const Address& other) const { return family == other.family && bytes == other.bytes; }

bool Address::contains(const Address& other) const {
  if (family != other.family) return false;
  for (unsigned i = 0; i < prefix.value_or(max_prefix()); ++i)
    if (bit(*this, i) != bit(other, i)) return false;
  return true;
}

Mac Mac::parse(std::string_view text) {
  Mac mac;
  bool good = text.size() == 17;
  for (size_t i = 0; good && i < 6; ++i) {
    const char* at = text.data() + i * 3;
    const auto [end, failure] = std::from_chars(at, at + 2, mac.bytes[i], 16);
    good = failure == std::errc() && end == at + 2 && (i == 5 || *end == ':');
  }
  if (!good) throw base::error("'{}' is not a MAC address", text).hint("write it as 02:1a:2b:3c:4d:5e");
  if ((mac.bytes[0] & 1) != 0)
    throw base::error("{} is a multicast MAC address", text).hint("the first byte of a host's is even");
  if (mac == Mac{}) throw base::error("{} is no host's MAC address", text);
  return mac;
}

Mac Mac::generate() {
  Mac mac;
  if (getrandom(mac.bytes.data(), mac.bytes.size(), 0) != static_cast<ssize_t>(mac.bytes.size()))
    throw base::sys_error("cannot get random bytes for a MAC address");
  mac.bytes[0] = 0x02;
  return mac;
}

std::string Mac::to_string() const {
  return std::format("{:02x}:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}", bytes[0], bytes[1], bytes[2], bytes[3],
                     bytes[4], bytes[5]);
}

Address Mac::link_local() const {
  Address address;
  address.family = AF_INET6;
  address.bytes = {
      0xfe,     0x80,     0,    0,    0,        0,        0,       0, static_cast<uint8_t>(bytes[0] ^ 0x02),
      bytes[1], bytes[2], 0xff, 0xfe, bytes[3], bytes[4], bytes[5]};
  address.prefix = 64;
  return address;
}

}  // namespace box
