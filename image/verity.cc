#include "image/verity.h"

#include "base/error.h"
#include "base/hash.h"

namespace image {
namespace {

constexpr size_t kHash = 32;
constexpr uint64_t kHashesPerBlock = kVerityBlock / kHash;
constexpr size_t kSuperblock = 512;

void put(std::string& text, size_t at, uint64_t value, size_t bytes) {
  for (size_t i = 0; i < bytes; ++i) text[at + i] = static_cast<char>(value >> (8 * i));
}

uint64_t divided(uint64_t a, uint64_t b) { return (a + b - 1) / b; }

std::span<const std::byte> bytes_of(const std::string& text) { return std::as_bytes(std::span(text)); }

std::string padded(std::string text) {
  text.resize(divided(text.size(), kVerityBlock) * kVerityBlock);
  return text;
}

std::string salt_bytes(std::string_view salt) {
  std::optional<std::string> bytes = base::from_hex(salt);
  if (!bytes || bytes->size() > kMostSalt)
    throw base::error("dm-verity's salt is not the hex digits of some bytes");
  return *bytes;
}

std::string uuid_bytes(std::string_view uuid) {
  std::string digits(uuid);
  std::erase(digits, '-');
  std::optional<std::string> bytes = base::from_hex(digits);
  if (!bytes || bytes->size() != 16) throw base::error("dm-verity's UUID is not one");
  return *bytes;
}

}  // namespace

uint64_t verity_bytes(uint64_t data_bytes) {
  uint64_t bytes = kVerityBlock;
  for (uint64_t blocks = data_bytes / kVerityBlock; blocks > 1;) {
    blocks = divided(blocks, kHashesPerBlock);
    bytes += blocks * kVerityBlock;
  }
  return bytes;
}

/// struct verity_sb of cryptsetup's lib/verity/verity.c; little-endian.
std::string verity_superblock(uint64_t data_bytes, std::string_view salt, std::string_view uuid) {
  std::string salt_is = salt_bytes(salt), uuid_is = uuid_bytes(uuid);
  std::string block(kSuperblock, '\0');
  block.replace(0, 6, "verity");
  put(block, 8, 1, 4);   // version
  put(block, 12, 1, 4);  // hash type: the salt stands before what is hashed
  block.replace(16, uuid_is.size(), uuid_is);
  block.replace(32, 6, "sha256");
  put(block, 64, kVerityBlock, 4);  // of data
  put(block, 68, kVerityBlock, 4);  // of hashes
  put(block, 72, data_bytes / kVerityBlock, 8);
  put(block, 80, salt_is.size(), 2);
  block.replace(88, salt_is.size(), salt_is);
  return block;
}

VerityTree::VerityTree(std::string_view salt, std::string_view uuid)
    : salt_(salt), uuid_(uuid), salt_bytes_(salt_bytes(salt)) {}

void VerityTree::add(std::span<const std::byte> data) { hash_blocks(data, leaves_); }

void VerityTree::hash_blocks(std::span<const std::byte> blocks, std::string& hashes) const {
  if (blocks.size() % kVerityBlock != 0) throw base::error("dm-verity's data is not in whole blocks");
  for (; !blocks.empty(); blocks = blocks.subspan(kVerityBlock)) {
    base::Sha256 hash;
    hash.add(bytes_of(salt_bytes_));
    hash.add(blocks.first(kVerityBlock));
    base::Sha256::Digest digest = hash.digest();
    hashes.append(reinterpret_cast<const char*>(digest.data()), digest.size());
  }
}

VerityTree::Area VerityTree::area() const {
  if (leaves_.empty()) throw base::error("dm-verity has no data");
  // The level above the data stands last, the one block of the top first.
  std::string hashes = leaves_, tree;
  while (hashes.size() > kHash) {
    std::string level = padded(std::move(hashes));
    hashes.clear();
    hash_blocks(bytes_of(level), hashes);
    tree.insert(0, level);
  }
  std::string superblock = verity_superblock(leaves_.size() / kHash * kVerityBlock, salt_, uuid_);
  return {.bytes = padded(superblock) + tree, .root_hash = base::to_hex(bytes_of(hashes))};
}

}  // namespace image
