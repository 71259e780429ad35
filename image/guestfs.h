#pragma once
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/context.h"
#include "image/disk.h"
#include "image/verdict.h"

/// What is done with a disk by way of libguestfs: a second way to compose one, and the look from outside.
/// Both start an appliance (image/appliance.h): some seconds with KVM, half a minute without. `cache_dir`
/// keeps what was found out about KVM.
namespace image {

/// compose_disk()'s disk by other programs, with a kernel's file systems: the same partitions, GUIDs, names,
/// files and loader, and not the same bytes (docs/formats/image-disk.md says where they differ).
void compose_disk_guestfs(base::Context& context, const DiskLayout& layout, const DiskParts& parts,
                          const std::string& out, const std::string& cache_dir);

/// What a disk should be: the parts, which have to be checked already, and what the manifest says of the
/// root.
struct DiskFacts {
  DiskLayout layout;
  DiskParts parts;           ///< data_files and state are not looked at: a new disk has any
  std::string root_hash;     ///< of dm-verity, 64 hex digits
  uint64_t hash_offset = 0;  ///< where in the root image its verity superblock stands
};

/// The names of inspect_disk()'s verdicts.
std::span<const std::string_view> disk_looks();

/// Looks at a disk and writes nothing. Each verdict is there always, in the order of disk_looks(); one whose
/// turn did not come, as another problem is in its way, says so. Throws only when the disk cannot be looked
/// at.
std::vector<Verdict> inspect_disk(base::Context& context, const std::string& disk, const DiskFacts& facts,
                                  const std::string& cache_dir);

}  // namespace image
