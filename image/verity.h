#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

/// The hash area that dm-verity reads behind a root: the same bytes as `veritysetup format` writes with
/// SHA-256 and blocks of 4096 bytes (format 1, with superblock). Given the data, a node makes it itself, so
/// no delta has to carry it. From cryptsetup's documentation of DMVerity and the kernel's verity.rst.
namespace image {

constexpr uint64_t kVerityBlock = 4096;
constexpr size_t kMostSalt = 256;

/// Of the hash area behind `data_bytes`, a multiple of kVerityBlock and not 0: superblock and tree.
uint64_t verity_bytes(uint64_t data_bytes);

/// The area's first 512 bytes. `salt` is the hex digits of up to kMostSalt bytes, `uuid` 8-4-4-4-12 hex
/// digits, as in the manifest; another one is an Error.
std::string verity_superblock(uint64_t data_bytes, std::string_view salt, std::string_view uuid);

class VerityTree {
 public:
  /// As verity_superblock() has them.
  VerityTree(std::string_view salt, std::string_view uuid);

  /// More of the data, in whole blocks. What is kept of each is 32 bytes.
  void add(std::span<const std::byte> data);

  struct Area {
    std::string bytes;      ///< the hash area
    std::string root_hash;  ///< 64 hex digits
  };
  /// Of all that was added, at least one block.
  [[nodiscard]] Area area() const;

 private:
  void hash_blocks(std::span<const std::byte> blocks, std::string& hashes) const;
  std::string salt_, uuid_;
  std::string salt_bytes_;
  std::string leaves_;  ///< the hash of each data block
};

}  // namespace image
