#pragma once
#include <nlohmann/json.hpp>
#include <sys/types.h>

#include <cstdint>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/context.h"
#include "box/box.h"
#include "box/config.h"

namespace migrate {

/// Of the protocol in docs/formats/move-wire.md.
inline constexpr int kProtocol = 1;

/// What the source says of the box and of itself before anything happens. Not trusted.
struct Hello {
  std::string id;    ///< of this move, 32 hex digits
  std::string from;  ///< the source, as the destination can reach it
  box::Config config;
  std::string criu;                    ///< version
  std::vector<std::string> cpu_flags;  ///< instruction sets that a program may have looked up
  uint64_t memory_bytes = 0;           ///< what CRIU will write
  uint64_t private_bytes = 0;          ///< what the private layer takes on disk

  [[nodiscard]] nlohmann::json json() const;
  static Hello parse(const nlohmann::json& json);
};

/// Looks at the box and this node; throws one sentence and a hint for what would make the move
/// fail. Changes nothing.
Hello inspect_source(const base::Context& context, const box::Status& status);

/// The same on the other node. What is missing of the box's layers is left to the caller.
void inspect_destination(const base::Context& context, const Hello& hello);
/// Instruction sets of this machine's processor that programs use by themselves, sorted.
std::vector<std::string> cpu_flags();
/// Bytes that processes hold and no file does: what CRIU writes into images.
uint64_t memory_of(const std::vector<pid_t>& pids);
/// Files of the private layer that the box's processes have mapped shared and writable, as
/// (device, inode): a store through such a mapping leaves no trace that a scan could see.
std::set<std::pair<dev_t, ino_t>> shared_writable_files(const std::vector<pid_t>& pids, int upper);

}  // namespace migrate
