#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace bootstrap {

/// What the kernel says about a dm-verity device.
struct Verity {
  bool verified = false;  ///< false: a block that was read was not what it should be
  std::string root_hash;
};

/// Of the file system at `path`, by the device mapper's ioctls; nullopt where no verity is below it.
std::optional<Verity> verity_of(const std::string& path);

/// What stands before a hash tree that `veritysetup format` has made: 512 bytes, all numbers little endian
/// (cryptsetup's "DMVerity", format of the superblock, version 1).
struct VeritySuperblock {
  std::string uuid, algorithm, salt;  ///< uuid and salt in hexadecimal digits
  uint32_t data_block = 0, hash_block = 0;
  uint64_t data_blocks = 0;
};
constexpr size_t kVeritySuperblockSize = 512;
VeritySuperblock parse_verity_superblock(std::string_view bytes);

/// dm-verity's table line for a device that has the data at its beginning and the superblock with the tree at
/// `hash_offset`. A wrong block restarts the machine. Throws where they would overlap.
std::string verity_table(const VeritySuperblock& superblock, const std::string& device,
                         const std::string& root_hash, uint64_t hash_offset);

/// Opens the device as /dev/mapper/NAME, read-only, and returns its own path, "/dev/dm-0". Nothing is
/// verified yet: the kernel does that with each block that is read.
std::string open_verity(const std::string& device, const std::string& name, const std::string& root_hash,
                        uint64_t hash_offset);

/// The root hash in dm-verity's table line (Linux, admin-guide/device-mapper/verity.rst): "1 DATA HASH 4096
/// 4096 BLOCKS START sha256 ROOT SALT …".
std::string root_hash_in(std::string_view table);

}  // namespace bootstrap
