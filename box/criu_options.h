#pragma once
#include <criu/criu.h>

#include <memory>
#include <string>

#include "base/fd.h"

namespace box {

// The devices that crun binds into a box from the node: CRIU takes them out by path and puts
// the other node's in.
inline constexpr const char* kDevices[] = {"null", "zero", "full", "tty", "random", "urandom"};

// Beside CRIU's images: the control groups of a box that divides its own (docs/formats/box-images.md).
inline constexpr const char* kGroups = "/groups.json";
// Likewise, a network namespace that CRIU leaves to us (docs/formats/box-network.md).
inline constexpr const char* kNetwork = "/network.json";

struct Freer {
  void operator()(criu_opts* o) const { criu_local_free_opts(o); }
};
using Options = std::unique_ptr<criu_opts, Freer>;

Options make_options(const std::string& program = "criu");

/// Options that libcriu 4.2 has no call for go through a configuration file (criu(8)), here one
/// in memory.
class ConfigFile {
 public:
  explicit ConfigFile(const std::string& text);
  [[nodiscard]] const char* path() const { return path_.c_str(); }

 private:
  base::Fd fd_;
  std::string path_;
};

/// What dump and restore have in common. `config` lives as long as the request.
void set_common(criu_opts* o, int images, int work, const ConfigFile& config);

}  // namespace box
