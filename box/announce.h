#pragma once
#include <chrono>
#include <string>
#include <vector>

#include "base/fd.h"
#include "box/address.h"

namespace box {

/// Tells the network where the box is now, from inside its network namespace, on eth0: for each
/// IPv4 address a gratuitous ARP in both forms, request and reply (RFC 5227 section 3, RFC 5944 section 4.6),
/// for each IPv6 address an unsolicited neighbour advertisement to all nodes (RFC 4861 section 7.2.6), one
/// also for the link-local address. Switches learn the new port from any of these frames. Then it repeats
/// what the box's kernel asked while the box was shut: who has an address. The kernel itself would ask again
/// only a second later, and has what is to be sent there wait until then. Its firewall must be open. Without
/// an eth0 that is up there is nothing to tell. Returns the socket that it used: the kernel takes 12 ms to
/// close one, and where somebody waits for the box, that can be done later.
base::Fd announce(int netns_fd, const Mac& mac, const std::vector<Address>& addresses);

struct Holder {
  Address address;
  Mac mac;
};

/// Asks on the node's bridge who has these addresses, all at once, and returns those that somebody
/// has. ARP probes (RFC 5227) and neighbour solicitations, sent twice within `timeout`, which passes
/// in full unless every address was answered for. An address of this bridge is found too. Works in the
/// caller's network namespace. A holder that is shut or frozen cannot answer.
std::vector<Holder> probe(const std::string& bridge, const std::vector<Address>& addresses,
                          std::chrono::milliseconds timeout = std::chrono::milliseconds(200));

}  // namespace box
