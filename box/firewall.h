#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/fd.h"
#include "box/address.h"

namespace box {

/// The rules on the host end of a box's cable: one nftables table per box, family netdev, named
/// after the host end. It hooks into the device's ingress (what comes out of the box) and egress
/// (what goes into it; kernel ≥ 5.16), so it does not matter which bridge the host end is on.
///
/// Each call is one nftables transaction: there is no moment between two states, and none without
/// rules. A failed call changes nothing. All of them work in the caller's network namespace, and
/// the host end must exist except for remove_firewall and firewall_state.
enum class Firewall { kNone, kShut, kOpen };

/// The box may be itself and nobody else:
/// - out of it come frames from its MAC only, ARP, IPv4 and IPv6, untagged, and from its addresses
///   only (for IPv6 also its link-local one); a family of which it has no address is dropped whole
/// - ARP and neighbour discovery may claim its own addresses only, with its own MAC
/// - it is no router and no DHCP server: no router advertisement, redirect, multicast query, DHCP answer
/// - into it goes everything but ARP and neighbour advertisements that claim its addresses for
///   another MAC
void open_firewall(const std::string& host_end, const Mac& mac, const std::vector<Address>& addresses);
/// The same rules, and shut: for a box that is to be opened in a hurry, by a Gate.
void load_firewall(const std::string& host_end, const Mac& mac, const std::vector<Address>& addresses);

/// Not a frame passes in either direction: while the box is frozen or half restored, nothing of the
/// node's kernel may answer for it (a RST would end its connections). Rules that are loaded stay.
void shut_firewall(const std::string& host_end);

/// Shuts and opens what is loaded in less than a millisecond, however many boxes the node has. For
/// whom that matters it lives longer than the hurry: the kernel lets the closing of its socket wait
/// for an RCU grace period (5 to 30 ms).
class [[nodiscard]] Gate {
 public:
  explicit Gate(std::string host_end);
  void open();  ///< throws when no rules are loaded; ends divert
  void shut();  ///< as shut_firewall
  /// Open or shut, from now on frames that the bridge has for this MAC go to the node's lo. There they are
  /// nobody's (lo has another MAC), but a FrameCatcher sees them. False where the kernel cannot do that.
  bool divert(const Mac& mac);

 private:
  /// Of both directions at once; false where there are no such chains.
  bool set_policies(bool accept);
  /// Sends a transaction with so many messages between begin and end. False: what it is about, or a part
  /// of the kernel for it, is not there.
  bool commit(std::span<const std::byte> batch, int messages);
  std::string host_end_;
  base::Fd fd_;
  uint32_t sequence_ = 0;
};

void remove_firewall(const std::string& host_end);  ///< absent is fine
/// What CRIU locks a box's network with while it dumps it, in the box's own namespace: of a CRIU that was
/// killed.
void remove_criu_lock();
/// All rules of the caller's network namespace, as `nft list ruleset` writes them; and back, where there are
/// none.
std::string list_ruleset();
void load_ruleset(const std::string& ruleset);
/// Slow where there are many boxes: for people who look, and for tests.
Firewall firewall_state(const std::string& host_end);

}  // namespace box
