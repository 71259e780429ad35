#include "bootstrap/ports.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <format>

#include "base/fd.h"

namespace bootstrap {
namespace {

namespace fs = std::filesystem;

std::string line_in(const fs::path& file) {
  std::string text = base::read_file_if_exists(file).value_or("");
  if (text.ends_with('\n')) text.pop_back();
  return text;
}

std::vector<fs::path> entries_of(const fs::path& directory) {
  std::vector<fs::path> entries;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(directory, error)) entries.push_back(entry.path());
  std::ranges::sort(entries);
  return entries;
}

/// PCI class 02: network controller. virtio devices are of type 1 when they are one (virtio 1.2, 5.1).
bool is_network_card(const fs::path& device) {
  std::string alias = line_in(device / "modalias");
  return line_in(device / "class").starts_with("0x02") || alias.starts_with("virtio:d00000001v");
}

}  // namespace

std::vector<std::string> ethernet_macs(const std::string& sys) {
  constexpr const char* kEthernet = "1";  // ARPHRD_ETHER
  std::vector<std::string> macs;
  for (const fs::path& port : entries_of(fs::path(sys) / "class/net")) {
    if (!base::exists(port / "device") || line_in(port / "type") != kEthernet) continue;
    if (base::exists(port / "wireless") || base::exists(port / "phy80211")) continue;
    std::string mac = line_in(port / "address");
    if (!mac.empty() && !std::ranges::contains(macs, mac)) macs.push_back(mac);
  }
  std::ranges::sort(macs);
  return macs;
}

std::vector<std::string> driverless_network_cards(const std::string& sys) {
  std::vector<std::string> aliases;
  for (const char* bus : {"pci", "virtio"})
    for (const fs::path& device : entries_of(fs::path(sys) / "bus" / bus / "devices"))
      if (is_network_card(device) && !base::exists(device / "driver"))
        aliases.push_back(line_in(device / "modalias"));
  return aliases;
}

void load_network_drivers(base::Runner& runner, const std::string& sys) {
  // Twice: a virtio card stands on its own bus once its PCI device has a driver.
  for (int pass = 0; pass < 2; ++pass) {
    std::vector<std::string> aliases = driverless_network_cards(sys);
    if (aliases.empty()) return;
    // -a: all; -b: what is on a blacklist is not meant; -q: an alias without a module is no error.
    std::vector<std::string> argv = {"modprobe", "-a", "-b", "-q", "--"};
    argv.insert(argv.end(), aliases.begin(), aliases.end());
    runner.run_any({.argv = argv});
  }
}

}  // namespace bootstrap
