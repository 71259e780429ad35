#pragma once
#include <unistd.h>

#include <filesystem>
#include <format>
#include <string>

#include "base/fd.h"
#include "base/mount.h"

namespace bootstrap {

/// A sysfs of a machine that is not there, as far as this folder looks at it: links as the kernel has them.
class Machine {
 public:
  [[nodiscard]] std::string sys() const { return dir_.path(); }

  void add_disk(const std::string& name, unsigned number, uint64_t sectors = 0) {
    add_block("devices/pci0/" + name, name, number, sectors);
  }
  /// The `number`-th of the machine's block devices, whatever its disk.
  void add_partition(const std::string& disk, const std::string& device, unsigned index,
                     const std::string& name, unsigned number, uint64_t start = 0, uint64_t sectors = 0) {
    std::string at = "devices/pci0/" + disk + "/" + device;
    add_block(at, device, number, sectors);
    write(at + "/partition", std::to_string(index) + "\n");
    write(at + "/start", std::to_string(start) + "\n");
    write(at + "/uevent", std::format("MAJOR=254\nMINOR={}\nDEVNAME={}\nDEVTYPE=partition\nPARTN={}\n{}",
                                      number, device, index, name.empty() ? "" : "PARTNAME=" + name + "\n"));
  }
  void add_mapped(const std::string& device, unsigned number, const std::string& over) {
    add_block("devices/virtual/block/" + device, device, number, 0);
    link("class/block/" + over, "devices/virtual/block/" + device + "/slaves/" + over);
  }
  /// `type` 1 is Ethernet. Without `device` it is nobody's hardware.
  void add_port(const std::string& name, const std::string& mac, const std::string& type = "1",
                bool device = true) {
    write("class/net/" + name + "/address", mac + "\n");
    write("class/net/" + name + "/type", type + "\n");
    if (device) write("class/net/" + name + "/device/modalias", "virtio:d00000001v00001AF4\n");
  }
  void add_card(const std::string& bus, const std::string& name, const std::string& alias,
                const std::string& klass, bool driver) {
    std::string at = "bus/" + bus + "/devices/" + name;
    write(at + "/modalias", alias + "\n");
    if (!klass.empty()) write(at + "/class", klass + "\n");
    if (driver) write(at + "/driver/bind", "");
  }
  void write(const std::string& path, const std::string& text) {
    base::make_directories(std::filesystem::path(sys() + "/" + path).parent_path());
    base::write_file(sys() + "/" + path, text);
  }

 private:
  void add_block(const std::string& at, const std::string& name, unsigned number, uint64_t sectors) {
    write(at + "/uevent", std::format("MAJOR=254\nMINOR={}\nDEVNAME={}\nDEVTYPE=disk\n", number, name));
    write(at + "/size", std::to_string(sectors) + "\n");
    link(at, "class/block/" + name);
    link(at, std::format("dev/block/254:{}", number));
  }
  void link(const std::string& to, const std::string& at) {
    base::make_directories(std::filesystem::path(sys() + "/" + at).parent_path());
    std::filesystem::create_symlink(sys() + "/" + to, sys() + "/" + at);
  }

  base::TempDir dir_ = base::TempDir::make("/tmp", "drover-machine-");
};

}  // namespace bootstrap
