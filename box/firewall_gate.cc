// The part of the firewall that a freeze waits for. libnftables reads all tables of the node before
// it changes one (0.1 ms for each box, nft 1.1.3), so the two policies are changed without it.
#include <arpa/inet.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netlink.h>
#include <net/if.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <array>
#include <cstring>
#include <format>
#include <span>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "box/firewall.h"

namespace box {

namespace {

/// nfnetlink messages one behind the other, as one transaction (linux/netfilter/nfnetlink.h): what lies
/// between begin and end takes effect together or not at all.
class Batch {
 public:
  explicit Batch(uint32_t sequence) : sequence_(sequence) {}
  void begin() { edge(NFNL_MSG_BATCH_BEGIN); }
  void end() { edge(NFNL_MSG_BATCH_END); }

  void set_policy(const std::string& table, const std::string& chain, uint32_t policy) {
    constexpr uint16_t kType = NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWCHAIN;
    const size_t start = header(kType, NLM_F_REQUEST | NLM_F_ACK, NFPROTO_NETDEV, 0);
    attribute(NFTA_CHAIN_TABLE, std::as_bytes(std::span(table.c_str(), table.size() + 1)));
    attribute(NFTA_CHAIN_NAME, std::as_bytes(std::span(chain.c_str(), chain.size() + 1)));
    number(NFTA_CHAIN_POLICY, policy);
    finish(start);
  }

  void remove_rules(const std::string& table, const std::string& chain) {
    constexpr uint16_t kType = NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_DELRULE;
    const size_t start = header(kType, NLM_F_REQUEST | NLM_F_ACK, NFPROTO_NETDEV, 0);
    attribute(NFTA_RULE_TABLE, std::as_bytes(std::span(table.c_str(), table.size() + 1)));
    attribute(NFTA_RULE_CHAIN, std::as_bytes(std::span(chain.c_str(), chain.size() + 1)));
    finish(start);
  }

  /// `@ll,0,48 MAC fwd to LINK`, as `nft --debug=netlink` shows it.
  void add_forward(const std::string& table, const std::string& chain, const Mac& mac, unsigned link) {
    constexpr uint16_t kType = NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWRULE;
    const size_t start =
        header(kType, NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_APPEND, NFPROTO_NETDEV, 0);
    attribute(NFTA_RULE_TABLE, std::as_bytes(std::span(table.c_str(), table.size() + 1)));
    attribute(NFTA_RULE_CHAIN, std::as_bytes(std::span(chain.c_str(), chain.size() + 1)));
    nest(NFTA_RULE_EXPRESSIONS, [&] {
      expression("payload", [&] {
        number(NFTA_PAYLOAD_DREG, NFT_REG_1);
        number(NFTA_PAYLOAD_BASE, NFT_PAYLOAD_LL_HEADER);
        number(NFTA_PAYLOAD_OFFSET, 0);
        number(NFTA_PAYLOAD_LEN, static_cast<uint32_t>(mac.bytes.size()));
      });
      expression("cmp", [&] {
        number(NFTA_CMP_SREG, NFT_REG_1);
        number(NFTA_CMP_OP, NFT_CMP_EQ);
        nest(NFTA_CMP_DATA, [&] { attribute(NFTA_DATA_VALUE, std::as_bytes(std::span(mac.bytes))); });
      });
      expression("immediate", [&] {
        number(NFTA_IMMEDIATE_DREG, NFT_REG_1);
        nest(NFTA_IMMEDIATE_DATA, [&] { attribute(NFTA_DATA_VALUE, std::as_bytes(std::span(&link, 1))); });
      });
      expression("fwd", [&] { number(NFTA_FWD_SREG_DEV, NFT_REG_1); });
    });
    finish(start);
  }

  [[nodiscard]] const std::vector<std::byte>& bytes() const { return bytes_; }

 private:
  void edge(uint16_t type) { finish(header(type, NLM_F_REQUEST, AF_UNSPEC, NFNL_SUBSYS_NFTABLES)); }

  size_t header(uint16_t type, uint16_t flags, uint8_t family, uint16_t resource) {
    const size_t start = bytes_.size();
    nlmsghdr message = {};
    message.nlmsg_type = type;
    message.nlmsg_flags = flags;
    message.nlmsg_seq = sequence_;
    put(std::as_bytes(std::span(&message, 1)));
    const nfgenmsg general = {family, NFNETLINK_V0, htons(resource)};
    put(std::as_bytes(std::span(&general, 1)));
    return start;
  }
  void attribute(uint16_t type, std::span<const std::byte> value) {
    const nlattr head = {static_cast<uint16_t>(NLA_HDRLEN + value.size()), type};
    put(std::as_bytes(std::span(&head, 1)));
    put(value);
  }
  void number(uint16_t type, uint32_t value) {
    const uint32_t in_network_order = htonl(value);
    attribute(type, std::as_bytes(std::span(&in_network_order, 1)));
  }
  template <class Content>
  void nest(uint16_t type, Content content) {
    const size_t start = bytes_.size();
    attribute(type | NLA_F_NESTED, {});
    content();
    const auto length = static_cast<uint16_t>(bytes_.size() - start);
    std::memcpy(bytes_.data() + start, &length, sizeof length);  // nla_len comes first
  }
  template <class Content>
  void expression(std::string_view name, Content content) {
    nest(NFTA_LIST_ELEM, [&] {
      const std::string text(name);
      attribute(NFTA_EXPR_NAME, std::as_bytes(std::span(text.c_str(), text.size() + 1)));
      nest(NFTA_EXPR_DATA, content);
    });
  }
  void put(std::span<const std::byte> value) {
    bytes_.insert(bytes_.end(), value.begin(), value.end());
    bytes_.resize(NLMSG_ALIGN(bytes_.size()));
  }
  void finish(size_t start) {
    const auto length = static_cast<uint32_t>(bytes_.size() - start);
    std::memcpy(bytes_.data() + start, &length, sizeof length);  // nlmsg_len comes first
  }

  uint32_t sequence_;
  std::vector<std::byte> bytes_;
};

}  // namespace

Gate::Gate(std::string host_end)
    : host_end_(std::move(host_end)), fd_(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER)) {
  if (!fd_) throw base::sys_error("cannot open a netlink socket");
  if (if_nametoindex(host_end_.c_str()) == 0)
    throw base::error("there is no interface {} on this node", host_end_);
  // The kernel answers before send returns; this is for a kernel that does not.
  const timeval patience = {5, 0};
  if (setsockopt(fd_.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience) != 0)
    throw base::sys_error("cannot set a time limit on a netlink socket");
}

bool Gate::set_policies(bool accept) {
  Batch batch(++sequence_);
  batch.begin();
  for (const char* chain : {"gate_out", "gate_in"})
    batch.set_policy(host_end_, chain, accept ? NF_ACCEPT : NF_DROP);
  if (accept) batch.remove_rules(host_end_, "gate_in");
  batch.end();
  return commit(batch.bytes(), accept ? 3 : 2);
}

bool Gate::divert(const Mac& mac) {
  Batch batch(++sequence_);
  batch.begin();
  batch.add_forward(host_end_, "gate_in", mac, if_nametoindex("lo"));
  batch.end();
  return commit(batch.bytes(), 1);
}

bool Gate::commit(std::span<const std::byte> batch, int messages) {
  if (send(fd_.get(), batch.data(), batch.size(), 0) != static_cast<ssize_t>(batch.size()))
    throw base::sys_error("cannot ask the kernel to change the firewall of {}", host_end_);

  // One answer for each message; an error for the whole comes alone.
  for (int answers = 0; answers < messages;) {
    alignas(nlmsghdr) std::array<std::byte, 8192> buffer;
    const ssize_t got = recv(fd_.get(), buffer.data(), buffer.size(), 0);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw base::sys_error("no answer from the kernel about the firewall of {}", host_end_);
    auto left = static_cast<unsigned>(got);
    for (auto* at = reinterpret_cast<nlmsghdr*>(buffer.data()); NLMSG_OK(at, left);
         at = NLMSG_NEXT(at, left)) {
      // The rest of the answers to a call that failed may still be there.
      if (at->nlmsg_type != NLMSG_ERROR || at->nlmsg_seq != sequence_) continue;
      const int failure = -static_cast<const nlmsgerr*>(NLMSG_DATA(at))->error;
      // No such table or expression; or no such chain, and a new one would need a hook.
      if (failure == ENOENT || failure == EOPNOTSUPP) return false;
      if (failure != 0)
        throw base::Error(std::format("cannot change the firewall of {}", host_end_), failure);
      ++answers;
    }
  }
  return true;
}

}  // namespace box
