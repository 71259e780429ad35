// node.toml, as people write it and disks lose it. What is read becomes files in /etc with nothing in them
// that was not meant: no other section, no other line.

#include <cstdint>
#include <cstdlib>
#include <set>
#include <string>

#include "base/error.h"
#include "base/text.h"
#include "bootstrap/node_files.h"

namespace {

const std::set<std::string> kSections = {"[Match]",   "[NetDev]", "[Bridge]", "[Link]",   "[Network]",
                                         "[Address]", "[Route]",  "[DHCPv4]", "[DHCPv6]", "[IPv6AcceptRA]"};

void check(const std::string& path, const bootstrap::NodeFile& file, size_t keys) {
  if (!path.starts_with("/etc/") || path.contains("/../") || path.contains('\0')) std::abort();
  const std::vector<std::string> lines = base::lines_of(file.content);
  if (path.starts_with("/etc/systemd/network/"))
    for (const std::string& line : lines)
      if (line.starts_with('[') && !kSections.contains(line)) std::abort();
  if (path.starts_with("/etc/drover/authorized_keys/") && lines.size() > keys + 1) std::abort();  // a comment
  if (path == "/etc/hostname" && lines.size() != 1) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    bootstrap::NodeFacts facts = {.config = bootstrap::parse_node_config(text, "node.toml"),
                                  .macs = {"52:54:00:77:01:0a", "52:54:00:77:01:0b"},
                                  .machine_id = "0123456789abcdef0123456789abcdef",
                                  .esp = "/dev/vda2"};
    size_t keys = 0;
    for (const auto& user : facts.config.users) keys += user.keys.size();
    for (const auto& [path, file] : bootstrap::node_files(facts)) check(path, file, keys);
    (void)bootstrap::doubts(facts);
  } catch (const base::Error&) {
    // Refused: what it was for.
  }
  return 0;
}
