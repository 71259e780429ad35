#include "bootstrap/node_config.h"

#include <arpa/inet.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <set>

#include "base/toml_table.h"

namespace bootstrap {
namespace {

constexpr std::string_view kLower = "abcdefghijklmnopqrstuvwxyz";
constexpr std::string_view kDigits = "0123456789";
// 68 is the least that IPv4 allows (RFC 791); the most that an interface of Linux has.
constexpr unsigned kLeastMtu = 68, kMostMtu = 65'535;

bool only(std::string_view text, std::string_view allowed) {
  return text.find_first_not_of(allowed) == std::string_view::npos;
}

std::string quoted(std::string_view text) {
  std::string quoted = "\"";
  for (char c : text) quoted += c < ' ' || c == '\x7f' ? '?' : c;
  return quoted + '"';
}

/// Every word of a list has to pass `right`.
template <class Right>
std::vector<std::string> checked(base::TomlTable& in, const std::string& key, std::string_view expected,
                                 Right right) {
  std::vector<std::string> texts;
  for (const base::Word& word : in.words(key)) {
    if (!right(word.text))
      throw base::conflict(word.place,
                           std::format("{}: expected {}, found {}", key, expected, quoted(word.text)));
    texts.push_back(word.text);
  }
  return texts;
}

/// Of one machine: not of all or of a group, whose first byte is odd.
bool is_mac(std::string_view text) {
  if (text.size() != std::string_view("00:00:00:00:00:00").size()) return false;
  for (size_t i = 0; i < text.size(); ++i)
    if (i % 3 == 2 ? text[i] != ':' : !only(text.substr(i, 1), "0123456789abcdef")) return false;
  return only(text.substr(1, 1), "02468ace") && text != "00:00:00:00:00:00";
}

/// A host name with dots in it.
bool is_domain(std::string_view text) {
  if (text.empty() || text.size() > 253) return false;
  for (size_t begin = 0; begin <= text.size();) {
    size_t end = std::min(text.find('.', begin), text.size());
    if (!is_host_name(text.substr(begin, end - begin))) return false;
    begin = end + 1;
  }
  return true;
}

bool is_address(const std::string& text) { return family_of(text, false).has_value(); }

/// A line of authorized_keys without options: the type, the key in base64, perhaps a comment (sshd(8)).
bool is_ssh_key(std::string_view text) {
  constexpr std::array<std::string_view, 3> kTypes = {"ssh-", "ecdsa-sha2-", "sk-"};
  if (std::ranges::any_of(text, [](char c) { return c >= 0 && c < ' '; })) return false;
  if (std::ranges::none_of(kTypes, [&](std::string_view type) { return text.starts_with(type); }))
    return false;
  size_t space = text.find(' ');
  if (space == std::string_view::npos) return false;
  std::string_view key = text.substr(space + 1, text.find(' ', space + 1) - space - 1);
  constexpr size_t kShortestKey = 32;
  return key.size() >= kShortestKey && key.starts_with("AAAA") &&
         only(key, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=");
}

/// As useradd(8) has it on Debian, and so a part of a path.
bool is_user_name(std::string_view text) {
  return !text.empty() && text.size() <= 32 && only(text.substr(0, 1), std::string(kLower) + "_") &&
         only(text, std::string(kLower) + std::string(kDigits) + "_-");
}

bool is_url(std::string_view text) {
  if (!text.starts_with("http://") && !text.starts_with("https://")) return false;
  return text.size() > text.find("//") + 2 &&
         std::ranges::all_of(text, [](char c) { return c > ' ' && c < '\x7f' && c != '"'; });
}

std::vector<std::string> parse_keys(base::TomlTable& in, const std::string& key) {
  return checked(in, key, "a line of authorized_keys, as \"ssh-ed25519 AAAA… name\"", is_ssh_key);
}

NodeConfig::Interface parse_interface(base::TomlTable& in) {
  constexpr std::string_view kMac = "six pairs of hexadecimal digits, as \"52:54:00:77:01:01\"";
  NodeConfig::Interface port;
  port.mac = in.required_text("mac", std::string(kMac));
  std::ranges::transform(port.mac, port.mac.begin(),
                         [](char c) { return c >= 'A' && c <= 'F' ? static_cast<char>(c - 'A' + 'a') : c; });
  if (!is_mac(port.mac)) throw in.wrong("mac", std::string(kMac) + ", of one machine", quoted(port.mac));
  port.bridge = in.flag("bridge").value_or(true);
  port.addresses = checked(in, "addresses", "an address with its prefix, as \"10.77.0.1/24\"",
                           [](const std::string& text) { return family_of(text, true).has_value(); });
  port.gateways = checked(in, "gateways", "an address, as \"10.77.0.254\"", is_address);
  port.dhcp = in.flag("dhcp").value_or(false);
  port.mtu = in.number("mtu", kLeastMtu, kMostMtu).value_or(0);
  std::set<int> families;
  for (const std::string& gateway : port.gateways)
    if (!families.insert(*family_of(gateway, false)).second)
      throw base::conflict(in.place_of("gateways"), "gateways: expected at most one of IPv4 and one of IPv6");
  in.finish();
  return port;
}

NodeConfig::User parse_user(base::TomlTable& in) {
  constexpr std::string_view kName = "a user of the image: lower-case letters, digits, - and _";
  NodeConfig::User user;
  user.name = in.required_text("name", std::string(kName));
  if (!is_user_name(user.name)) throw in.wrong("name", std::string(kName), quoted(user.name));
  user.keys = parse_keys(in, "ssh_keys");
  in.finish();
  return user;
}

/// No MAC and no user twice: which of the two would count?
template <class Part, class Name>
void check_once(base::TomlTable& table, const std::vector<Part>& so_far, const std::string& key, Name name,
                const std::string& value) {
  if (std::ranges::contains(so_far, value, name))
    throw base::conflict(table.place_of(key), std::format("{}: {} stands in two tables", key, value));
}

}  // namespace

bool is_host_name(std::string_view name) {
  constexpr std::string_view kAllowed = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-";
  return !name.empty() && name.size() <= 63 && only(name, kAllowed) && !name.starts_with('-') &&
         !name.ends_with('-');
}

std::optional<int> family_of(const std::string& text, bool prefix) {
  size_t slash = prefix ? text.find('/') : text.size();
  if (slash == std::string::npos) return std::nullopt;
  const std::string address = text.substr(0, slash);
  std::array<unsigned char, sizeof(in6_addr)> bytes;
  int family = 0;
  if (::inet_pton(AF_INET, address.c_str(), bytes.data()) == 1)
    family = 4;
  else if (::inet_pton(AF_INET6, address.c_str(), bytes.data()) == 1)
    family = 6;
  else
    return std::nullopt;
  if (!prefix) return family;
  unsigned bits = 0;
  const char *begin = text.data() + slash + 1, *end = text.data() + text.size();
  auto [stop, error] = std::from_chars(begin, end, bits);
  if (error != std::errc() || stop != end || bits > (family == 4 ? 32u : 128u)) return std::nullopt;
  return family;
}

NodeConfig parse_node_config(std::string_view text, const std::string& file) {
  constexpr std::string_view kName = "a host name: letters, digits and hyphens, at most 63";
  base::TomlTable in = base::TomlTable::parse(text, file);
  NodeConfig config;
  if (auto name = in.text("name")) config.name = *name;
  if (!config.name.empty() && !is_host_name(config.name))
    throw in.wrong("name", std::string(kName), quoted(config.name));
  config.dns = checked(in, "dns", "an address, as \"10.77.0.254\"", is_address);
  config.search = checked(in, "search", "a domain", is_domain);
  config.time_servers =
      checked(in, "time_servers", "an address or a host name",
              [](const std::string& server) { return is_address(server) || is_domain(server); });
  if (auto server = in.text("boot_server")) {
    if (!is_url(*server)) throw in.wrong("boot_server", "a URL, as \"http://10.77.0.254\"", quoted(*server));
    config.boot_server = *server;
  }
  auto keys = parse_keys(in, "ssh_keys");
  // drover-node receive says what such a key may do.
  for (const std::string& key : parse_keys(in, "fleet_keys"))
    keys.push_back("restrict,command=\"drover-node receive --forced\" " + key);
  if (!keys.empty()) config.users.push_back({.name = "root", .keys = std::move(keys)});
  for (base::TomlTable& table : in.tables("interface")) {
    NodeConfig::Interface port = parse_interface(table);
    check_once(table, config.interfaces, "mac", &NodeConfig::Interface::mac, port.mac);
    config.interfaces.push_back(std::move(port));
  }
  for (base::TomlTable& table : in.tables("user")) {
    NodeConfig::User user = parse_user(table);
    check_once(table, config.users, "name", &NodeConfig::User::name, user.name);
    config.users.push_back(std::move(user));
  }
  in.finish();
  return config;
}

}  // namespace bootstrap
