#include "box/firewall.h"

#include <net/if.h>
#include <nftables/libnftables.h>
#include <nlohmann/json.hpp>

#include <format>
#include <memory>
#include <span>
#include <string_view>

#include "base/error.h"

namespace box {

namespace {

/// One batch through libnftables. Each call has a context of its own: a context keeps a netlink
/// socket in the namespace that it was made in.
class Nft {
 public:
  Nft() : context_(nft_ctx_new(NFT_CTX_DEFAULT)) {
    if (!context_)
      throw base::error("cannot open nftables").hint("this needs root and a kernel with nf_tables");
    nft_ctx_buffer_error(context_.get());
    nft_ctx_buffer_output(context_.get());
  }
  bool run(const std::string& commands) {
    return nft_run_cmd_from_buffer(context_.get(), commands.c_str()) == 0;
  }
  void need(const std::string& commands, std::string_view what) {
    if (run(commands)) return;
    std::string reason = nft_ctx_get_error_buffer(context_.get());
    reason = reason.substr(0, reason.find('\n'));
    if (const size_t at = reason.find("Error: "); at != std::string::npos) reason = reason.substr(at + 7);
    throw base::error("{}: {}", what, reason);
  }
  std::string print(const std::string& command) {
    need(command, "cannot list nftables rules");
    return nft_ctx_get_output_buffer(context_.get());
  }
  nlohmann::json list(const std::string& command) {
    nft_ctx_output_set_flags(context_.get(), NFT_CTX_OUTPUT_JSON);
    return nlohmann::json::parse(print(command)).at("nftables");
  }

 private:
  struct Free {
    void operator()(nft_ctx* context) const { nft_ctx_free(context); }
  };
  std::unique_ptr<nft_ctx, Free> context_;
};

/// The table without its gates and without rules; what was in it goes. Its policy is to drop, so
/// no moment in which the kernel hooks in one new chain after the other lets a frame pass.
std::string empty_table(const std::string& host_end) {
  return std::format(R"(add table netdev {0}
add chain netdev {0} out {{ type filter hook ingress device "{0}" priority filter; policy drop; }}
add chain netdev {0} in {{ type filter hook egress device "{0}" priority filter; policy drop; }}
flush chain netdev {0} out
flush chain netdev {0} in
)",
                     host_end);
}

/// Chains without rules (but for Gate::divert) that a frame meets first. They come last into the table: where
/// they accept, the rules are there.
std::string gates(const std::string& host_end, std::string_view policy) {
  return std::format(R"(
add chain netdev {0} gate_out {{ type filter hook ingress device "{0}" priority -10; policy {1}; }}
add chain netdev {0} gate_in {{ type filter hook egress device "{0}" priority -10; policy {1}; }}
flush chain netdev {0} gate_in
)",
                     host_end, policy);
}

class Rules {
 public:
  explicit Rules(std::string host_end) : host_end_(std::move(host_end)) {}
  void out(std::string_view rule) { text_ += std::format("add rule netdev {} out {}\n", host_end_, rule); }
  void in(std::string_view rule) { text_ += std::format("add rule netdev {} in {}\n", host_end_, rule); }
  [[nodiscard]] const std::string& text() const { return text_; }

 private:
  std::string host_end_, text_;
};

std::string hex_of(std::span<const uint8_t> bytes) {
  std::string text = "0x";
  for (const uint8_t byte : bytes) text += std::format("{:02x}", byte);
  return text;
}

/// "{ a, b }", or empty when no address is of that family. `in_hex` for payload that nft knows no type of.
std::string set_of(const std::vector<Address>& addresses, bool v4, bool in_hex = false) {
  std::string set;
  for (const Address& address : addresses) {
    if (address.is_v4() != v4) continue;
    set += set.empty() ? "{ " : ", ";
    set += in_hex ? hex_of(std::span(address.bytes).first(v4 ? 4 : 16)) : address.host();
  }
  return set.empty() ? set : set + " }";
}

void ipv4_rules(Rules& rules, const Mac& mac, const std::vector<Address>& addresses) {
  const std::string own = set_of(addresses, true);
  const std::string arp =
      "ether type arp arp htype 1 arp ptype ip arp hlen 6 arp plen 4 arp saddr ether " + mac.to_string();
  rules.out(std::format("{} arp operation {{ request, reply }} arp saddr ip {} accept", arp, own));
  // The box may look whether somebody else has its address (RFC 5227).
  rules.out(std::format("{} arp operation request arp saddr ip 0.0.0.0 arp daddr ip {} accept", arp, own));
  rules.out("ether type ip udp sport 67 drop");
  rules.out("ether type ip igmp type membership-query drop");
  rules.out(std::format("ether type ip ip saddr {} accept", own));
  // Spelled as bytes: nft's own words for ARP and Ethernet test the receiving interface's type first,
  // and in the egress hook there is none, so that they never match (nft 1.1.3).
  rules.in(std::format("meta protocol arp @nh,112,32 {} @nh,64,48 != {} drop", set_of(addresses, true, true),
                       hex_of(mac.bytes)));
}

/// Neighbour discovery is held to the forms that hosts send: directly behind the IPv6 header (the
/// kernel drops fragmented ones, RFC 6980) and with the one option that belongs to them, found by
/// the payload's length, because nft cannot walk through options.
void ipv6_rules(Rules& rules, const Mac& mac, const std::string& own) {
  const std::string nd = "ether type ip6 ip6 nexthdr icmpv6 icmpv6 type";
  // A fragment's header stands right behind the IPv6 header and before the message itself, whose first
  // eight bytes are there: so nobody can have its type read in the padding, or put off to the next one.
  rules.out("ether type ip6 ip6 nexthdr != 44 exthdr frag exists drop");
  rules.out("ether type ip6 ip6 nexthdr 44 frag nexthdr { 0, 43, 44, 51, 60, 135 } drop");
  rules.out("ether type ip6 ip6 nexthdr 44 ip6 length < 16 drop");
  // From the unspecified address: duplicate address detection (a nonce comes with it, RFC 7527), the
  // first router solicitation, and multicast reports (RFC 3590).
  const std::string detection = std::format("{} nd-neighbor-solicit ip6 saddr :: icmpv6 taddr {}", nd, own);
  rules.out(detection + " ip6 length 24 accept");
  rules.out(detection + " ip6 length 32 @th,192,16 0x0e01 accept");
  rules.out(nd + " nd-router-solicit ip6 saddr :: ip6 length 8 accept");
  rules.out(
      "ether type ip6 ip6 saddr :: icmpv6 type "
      "{ mld-listener-report, mld-listener-done, mld2-listener-report } accept");
  rules.out(std::format("ether type ip6 ip6 saddr != {} drop", own));

  const std::string advert = std::format("{} nd-neighbor-advert icmpv6 taddr {}", nd, own);
  rules.out(advert + " ip6 length 24 accept");
  rules.out(
      std::format("{} ip6 length 32 @th,192,16 0x0201 @th,208,48 {} accept", advert, hex_of(mac.bytes)));
  rules.out(nd + " nd-neighbor-solicit ip6 length 24 accept");
  rules.out(std::format("{} nd-neighbor-solicit ip6 length 32 @th,192,16 0x0101 @th,208,48 {} accept", nd,
                        hex_of(mac.bytes)));
  rules.out(nd + " nd-router-solicit ip6 length 8 accept");
  rules.out(std::format("{} nd-router-solicit ip6 length 16 @th,64,16 0x0101 @th,80,48 {} accept", nd,
                        hex_of(mac.bytes)));
  // All else of neighbour discovery (133 to 137), router renumbering, and multicast queries.
  rules.out("ether type ip6 icmpv6 type { mld-listener-query, 133-138 } drop");
  rules.out("ether type ip6 udp sport 547 drop");
  // A packet whose headers cannot be followed to their end has no l4proto and is dropped.
  rules.out("ether type ip6 meta l4proto != 255 accept");
  rules.in(std::format("meta protocol ip6 icmpv6 type nd-neighbor-advert icmpv6 taddr {} drop", own));
}

std::string rules_for(const std::string& host_end, const Mac& mac, const std::vector<Address>& addresses) {
  Rules rules(host_end);
  rules.out(std::format("ether saddr != {} drop", mac.to_string()));
  if (!set_of(addresses, true).empty()) ipv4_rules(rules, mac, addresses);
  std::vector<Address> with_link_local = addresses;
  with_link_local.push_back(mac.link_local());
  if (!set_of(addresses, false).empty()) ipv6_rules(rules, mac, set_of(with_link_local, false));
  // A bridge floods frames for MACs that it does not know: they are none of this box's business.
  rules.in(std::format("@ll,0,48 & 0x010000000000 == 0 @ll,0,48 != {} drop", hex_of(mac.bytes)));
  rules.in("accept");
  return rules.text();
}

void need_link(const std::string& host_end) {
  if (if_nametoindex(host_end.c_str()) == 0)
    throw base::error("there is no interface {} on this node", host_end);
}

}  // namespace

void load_firewall(const std::string& host_end, const Mac& mac, const std::vector<Address>& addresses) {
  need_link(host_end);
  Nft().need(empty_table(host_end) + rules_for(host_end, mac, addresses) + gates(host_end, "drop"),
             std::format("cannot load the firewall of {}", host_end));
}

void open_firewall(const std::string& host_end, const Mac& mac, const std::vector<Address>& addresses) {
  need_link(host_end);
  Nft().need(empty_table(host_end) + rules_for(host_end, mac, addresses) + gates(host_end, "accept"),
             std::format("cannot open the firewall of {}", host_end));
}

void Gate::open() {
  if (!set_policies(true)) throw base::error("no firewall rules are loaded for {}", host_end_);
}

void Gate::shut() {
  if (!set_policies(false))
    Nft().need(empty_table(host_end_), std::format("cannot shut the firewall of {}", host_end_));
}

void shut_firewall(const std::string& host_end) { Gate(host_end).shut(); }

void remove_firewall(const std::string& host_end) {
  Nft().need("destroy table netdev " + host_end, std::format("cannot remove the firewall of {}", host_end));
}

void remove_criu_lock() {
  for (const auto& entry : Nft().list("list tables inet"))
    // CRIU 4.2, criu/netfilter.c: CRIU-ID.
    if (const std::string name = entry.contains("table") ? entry["table"].value("name", "") : "";
        name.starts_with("CRIU-"))
      Nft().need("destroy table inet " + name, "cannot take away CRIU's lock of a box's network");
}

std::string list_ruleset() { return Nft().print("list ruleset"); }

void load_ruleset(const std::string& ruleset) { Nft().need(ruleset, "cannot load the box's own firewall"); }

Firewall firewall_state(const std::string& host_end) {
  bool there = false;
  for (const auto& entry : Nft().list("list tables netdev"))
    there |= entry.contains("table") && entry["table"].value("name", "") == host_end;
  if (!there) return Firewall::kNone;
  unsigned chains = 0, gates_open = 0;
  for (const auto& entry : Nft().list("list table netdev " + host_end)) {
    if (!entry.contains("chain")) continue;
    const nlohmann::json& chain = entry["chain"];
    chains += 1;
    gates_open +=
        chain.value("name", "").starts_with("gate_") && chain.value("policy", "") == "accept" ? 1 : 0;
  }
  // The kernel takes the chains away with their device (before 6.16).
  if (chains == 0) return Firewall::kNone;
  return gates_open == 2 ? Firewall::kOpen : Firewall::kShut;
}

}  // namespace box
