#pragma once
#include <nlohmann/json.hpp>
#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "base/context.h"
#include "box/box.h"
#include "box/config.h"

namespace migrate {

/// Of the protocol in docs/formats/move-wire.md.
inline constexpr int kProtocol = 7;

/// What the source says of the box and of itself before anything happens. Not trusted.
struct Hello {
  std::string id;    ///< of this move, 32 hex digits
  std::string from;  ///< the source, as the destination can reach it
  box::Config config;
  std::string criu;                    ///< version
  std::vector<std::string> cpu_flags;  ///< instruction sets that a program may have looked up
  uint64_t memory_bytes = 0;           ///< private to its processes
  uint64_t shared_bytes = 0;           ///< other content that no file has, see shared_bytes_of()
  uint64_t private_bytes = 0;          ///< what the private layer takes on disk
  bool lazy = false;                   ///< its memory takes a connection of its own
  bool dry_run = false;                ///< nothing will come of it
  std::vector<std::string> files;      ///< that its processes have mapped, see mapped_files()

  /// What CRIU will write into images.
  [[nodiscard]] uint64_t image_bytes() const { return shared_bytes + (lazy ? 0 : memory_bytes); }

  [[nodiscard]] nlohmann::json json() const;
  static Hello parse(const nlohmann::json& json);
};

/// Looks at the box and this node; throws one sentence and a hint for what would make the move
/// fail. Changes nothing.
Hello inspect_source(const base::Context& context, const box::Status& status, bool lazy = false);

/// Of what inspect_destination looks for, that which another box of this node could have taken since: its
/// addresses, MAC and ids. Under the node's lock (box::lock_node) it is certain.
void require_no_clash(const base::Context& context, const box::Config& config);

/// How a box comes: from a node, where it runs until it runs here, or from a file. Then nobody may run it.
enum class From { kNode, kFile };

/// The same on the other node, or where a file is to be restored. What is missing of the box's layers is left
/// to the caller, and with a file what is known of the box's epoch.
void inspect_destination(const base::Context& context, const Hello& hello, From from = From::kNode);
/// Instruction sets of this machine's processor that programs use by themselves, sorted.
std::vector<std::string> cpu_flags();
/// Bytes of the processes' private memory that no file has.
uint64_t memory_of(const std::vector<pid_t>& pids);
/// Bytes that no file has and no page fault brings, so that CRIU writes them into images whatever the mode:
/// shared memory, content of the box's tmpfs, deleted files.
uint64_t shared_bytes_of(const std::vector<pid_t>& pids);
/// Bytes of it that lie in huge pages.
uint64_t huge_memory_of(const std::vector<pid_t>& pids);
/// What this node could still give to processes, in bytes (MemAvailable of proc_meminfo(5)).
uint64_t available_memory();

}  // namespace migrate
