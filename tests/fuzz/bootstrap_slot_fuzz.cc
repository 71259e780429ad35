// What a slot tells the initrd and the node about itself: the kernel's command line, the superblock of its
// hash tree, its health checks. The first byte says which.

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "base/error.h"
#include "bootstrap/health.h"
#include "bootstrap/kernel_line.h"
#include "bootstrap/modules.h"
#include "bootstrap/verity.h"

namespace {

void one(char kind, std::string_view text) {
  if (kind == 'k') {
    bootstrap::KernelLine line = bootstrap::parse_kernel_line(text);
    if (line.root_hash.size() != 64 || line.hash_offset % 4096 != 0) std::abort();
  } else if (kind == 'v') {
    bootstrap::VeritySuperblock superblock = bootstrap::parse_verity_superblock(text);
    constexpr uint64_t kOffset = 1 << 20;
    std::string table = bootstrap::verity_table(superblock, "/dev/vda3", std::string(64, 'a'), kOffset);
    // As many words as dm-verity counts, whatever stood in the superblock.
    if (std::ranges::count(table, ' ') != 11 || table.contains('\0') || table.contains('\n')) std::abort();
    if (superblock.data_blocks * superblock.data_block > kOffset) std::abort();
    if (bootstrap::root_hash_in(table) != std::string(64, 'a')) std::abort();
  } else if (kind == 'h') {
    for (const bootstrap::Check& check : bootstrap::parse_checks(text, "health.json"))
      if (check.command.empty() || check.command[0].empty() || check.seconds == 0) std::abort();
  } else {
    for (const std::string& path : bootstrap::module_paths(text, "/lib/modules/6.12"))
      if (!path.starts_with('/')) std::abort();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  try {
    one(static_cast<char>(data[0]), {reinterpret_cast<const char*>(data + 1), size - 1});
  } catch (const base::Error&) {
    // Refused: what it was for.
  }
  return 0;
}
