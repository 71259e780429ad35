#include "bootstrap/node_files.h"

#include <algorithm>
#include <format>

#include "bootstrap/data.h"

namespace bootstrap {
namespace {

using Interface = NodeConfig::Interface;

constexpr std::string_view kMade =
    "# Made at each boot from node.toml: a change here is gone with the next one.\n";

std::string made(const std::string& text) { return std::string(kMade) + text; }

bool has_port(const NodeFacts& facts, const Interface& port) {
  return std::ranges::contains(facts.macs, port.mac);
}

/// Those of node.toml that are there; where none is, all ports of the machine in the bridge, with DHCP: a
/// machine whose ports were exchanged stays in reach.
std::vector<Interface> ports_of(const NodeFacts& facts) {
  std::vector<Interface> ports;
  for (const Interface& port : facts.config.interfaces)
    if (has_port(facts, port)) ports.push_back(port);
  if (ports.empty())
    for (const std::string& mac : facts.macs) ports.push_back({.mac = mac});
  return ports;
}

/// [Network] of what has addresses: the bridge, with those of all its ports, or a port of its own.
std::string network_of(const NodeFacts& facts, const std::vector<Interface>& parts, bool of_bridge) {
  std::string text;
  bool fixed = std::ranges::any_of(parts, [](const Interface& part) { return !part.addresses.empty(); });
  bool asked = std::ranges::any_of(parts, &Interface::dhcp);
  text += !fixed || asked ? "DHCP=yes\n" : "DHCP=no\n";
  for (const Interface& part : parts) {
    for (const std::string& address : part.addresses) text += "Address=" + address + "\n";
    for (const std::string& gateway : part.gateways) text += "Gateway=" + gateway + "\n";
  }
  if (of_bridge) {
    for (const std::string& server : facts.config.dns) text += "DNS=" + server + "\n";
    for (const std::string& domain : facts.config.search) text += "Domains=" + domain + "\n";
    // Boxes are to find their bridge whether or not a cable is in.
    text += "ConfigureWithoutCarrier=yes\n";
  }
  return text;
}

void add_port(NodeFiles& files, const NodeFacts& facts, const Interface& port) {
  std::string digits = port.mac;
  std::erase(digits, ':');
  // By the permanent address: the bridge has that of its first port, too.
  std::string text = std::format("[Match]\nPermanentMACAddress={}\n", port.mac);
  if (port.mtu != 0) text += std::format("\n[Link]\nMTUBytes={}\n", port.mtu);
  text += "\n[Network]\n";
  text += port.bridge ? "Bridge=br0\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n"
                      : network_of(facts, {port}, false);
  files[std::format("/etc/systemd/network/20-drover-{}.network", digits)] = {.content = made(text)};
}

void add_network(NodeFiles& files, const NodeFacts& facts) {
  std::vector<Interface> ports = ports_of(facts), bridged;
  for (const Interface& port : ports) {
    add_port(files, facts, port);
    if (port.bridge) bridged.push_back(port);
  }
  std::string netdev = "[NetDev]\nName=br0\nKind=bridge\n";
  if (!bridged.empty()) netdev += std::format("MACAddress={}\n", bridged.front().mac);
  // With one port there is no loop to find, and so nothing to wait for. With more, two of them may be on one
  // switch: the spanning tree, with the least delay that it has (IEEE 802.1D allows 4 s, Linux 2).
  netdev += bridged.size() > 1 ? "\n[Bridge]\nSTP=yes\nForwardDelaySec=2\n"
                               : "\n[Bridge]\nSTP=no\nForwardDelaySec=0\n";
  netdev += "MulticastSnooping=no\n";
  files["/etc/systemd/network/10-drover-br0.netdev"] = {.content = made(netdev)};
  // A bridge without a port has nobody to ask for an address.
  std::string network = bridged.empty() ? "LinkLocalAddressing=no\nConfigureWithoutCarrier=yes\n"
                                        : network_of(facts, bridged, true);
  files["/etc/systemd/network/10-drover-br0.network"] = {
      .content = made("[Match]\nName=br0\n\n[Network]\n" + network)};
  for (const char* wanted :
       {"multi-user.target.wants/systemd-networkd.service", "sockets.target.wants/systemd-networkd.socket"}) {
    std::string unit = wanted;
    files["/etc/systemd/system/" + unit] = {
        .mode = 0777, .content = "/usr/lib/systemd/system/" + unit.substr(unit.find('/') + 1), .link = true};
  }
}

/// The node's own name leads to an address of it that others know, if there is one.
std::string hosts(const NodeFacts& facts, const std::string& name) {
  std::string text = "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n";
  bool any = false;
  for (const Interface& port : ports_of(facts))
    for (const std::string& address : port.addresses) {
      text += std::format("{} {}\n", address.substr(0, address.find('/')), name);
      any = true;
    }
  if (!any) text += std::format("127.0.1.1 {}\n", name);
  return made(text);
}

const NodeFile kSwitchedOff = {.mode = 0777, .content = "/dev/null", .link = true};

NodeFile resolv_conf(const NodeFacts& facts) {
  if (facts.resolved)
    return {.mode = 0777, .content = "../run/systemd/resolve/stub-resolv.conf", .link = true};
  std::string text;
  if (!facts.config.search.empty()) {
    text += "search";
    for (const std::string& domain : facts.config.search) text += " " + domain;
    text += "\n";
  }
  for (const std::string& server : facts.config.dns) text += "nameserver " + server + "\n";
  return {.content = made(text)};
}

void add_ssh(NodeFiles& files, const NodeFacts& facts) {
  files["/etc/ssh/sshd_config.d/drover.conf"] = {
      .content = made(std::format("HostKey /var/lib/drover/ssh/{}\n"
                                  "AuthorizedKeysFile .ssh/authorized_keys /etc/ssh/authorized_keys.d/%u "
                                  "/etc/drover/authorized_keys/%u\n",
                                  kHostKey))};
  // Debian's would make keys of its own at each boot.
  files["/etc/systemd/system/sshd-keygen.service"] = kSwitchedOff;
  for (const NodeConfig::User& user : facts.config.users) {
    std::string text;
    for (const std::string& key : user.keys) text += key + "\n";
    files["/etc/drover/authorized_keys/" + user.name] = {.content = made(text)};
  }
}

/// Instead of the image's own, which names servers too; otherwise as Debian's.
std::string chrony_conf(const NodeFacts& facts) {
  std::string text;
  for (const std::string& server : facts.config.time_servers) text += "server " + server + " iburst\n";
  return made(text + "driftfile /var/lib/chrony/chrony.drift\nmakestep 1 3\nrtcsync\nleapsectz right/UTC\n");
}

}  // namespace

std::string node_name(const NodeFacts& facts) {
  if (!facts.config.name.empty()) return facts.config.name;
  std::string digits = facts.macs.empty() ? facts.machine_id : facts.macs.front();
  std::erase(digits, ':');
  constexpr size_t kDigits = 6;
  return "node-" + (digits.size() > kDigits ? digits.substr(digits.size() - kDigits) : digits);
}

std::vector<std::string> doubts(const NodeFacts& facts) {
  std::vector<std::string> sentences;
  const auto& named = facts.config.interfaces;
  for (const Interface& port : named)
    if (!has_port(facts, port))
      sentences.push_back(std::format("node.toml has an interface {}, which this machine has not", port.mac));
  if (!named.empty() && sentences.size() == named.size())
    sentences.emplace_back(
        "no interface of node.toml is in this machine: all its ports are in br0, with DHCP");
  if (facts.macs.empty()) sentences.emplace_back("this machine has no Ethernet port with a driver");
  return sentences;
}

NodeFiles node_files(const NodeFacts& facts) {
  NodeFiles files;
  const std::string name = node_name(facts);
  files["/etc/hostname"] = {.content = name + "\n"};
  files["/etc/hosts"] = {.content = hosts(facts, name)};
  files["/etc/machine-id"] = {.mode = 0444, .content = facts.machine_id + "\n"};
  files["/etc/resolv.conf"] = resolv_conf(facts);
  add_network(files, facts);
  add_ssh(files, facts);
  if (!facts.config.time_servers.empty()) files["/etc/chrony/chrony.conf"] = {.content = chrony_conf(facts)};
  // What hangs starts again, and the loader counts. drover-watchdog.service sees that there is one.
  files["/etc/systemd/system.conf.d/drover.conf"] = {
      .content = made("[Manager]\nRuntimeWatchdogSec=60s\nRebootWatchdogSec=5min\n")};
  if (!facts.config.boot_server.empty())
    files["/etc/drover/boot-server"] = {.content = facts.config.boot_server + "\n"};
  // It would mount an ESP of its own choice at /efi.
  files["/etc/systemd/system-generators/systemd-gpt-auto-generator"] = kSwitchedOff;
  if (facts.network)
    // Their conditions alone would not do: systemd waits for the device first.
    for (const char* unit : {"boot-efi.mount", "drover-confirm.service", "drover-deadline.timer"})
      files[std::format("/etc/systemd/system/{}", unit)] = kSwitchedOff;
  if (!facts.esp.empty())
    files["/etc/systemd/system/boot-efi.mount.d/disk.conf"] = {
        .content = made(std::format("[Mount]\nWhat={}\n", facts.esp))};
  return files;
}

}  // namespace bootstrap
