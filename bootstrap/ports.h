#pragma once
#include <string>
#include <vector>

#include "base/child.h"

namespace bootstrap {

/// The MACs of the machine's Ethernet ports, in the order of their numbers: of devices of type Ethernet that
/// stand on a bus, and that nobody else has made. `sys` is where sysfs is mounted.
std::vector<std::string> ethernet_macs(const std::string& sys = "/sys");

/// Loads the drivers of network cards, which udev would do later: the node's name is after a MAC. A card
/// without a driver is no error.
void load_network_drivers(base::Runner& runner, const std::string& sys = "/sys");

/// What modprobe is to load: the aliases of PCI and virtio devices that are network cards, or may lead to
/// one, and that have no driver.
std::vector<std::string> driverless_network_cards(const std::string& sys = "/sys");

}  // namespace bootstrap
