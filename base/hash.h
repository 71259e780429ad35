#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace base {

/// SHA-256 (libsodium), given piece by piece.
class Sha256 {
 public:
  Sha256();
  ~Sha256();
  void add(std::span<const std::byte> data);
  [[nodiscard]] std::string hex();  ///< 64 digits; once, at the end

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// BLAKE2b-512 (libsodium), given piece by piece.
class Blake2b {
 public:
  using Digest = std::array<std::byte, 64>;
  Blake2b();
  ~Blake2b();
  void add(std::span<const std::byte> data);
  [[nodiscard]] Digest digest();  ///< once, at the end

 private:
  struct State;
  std::unique_ptr<State> state_;
};

std::string sha256_hex(std::string_view text);
std::string sha256_file_hex(const std::string& path);
/// CRC-32C (Castagnoli, as in RFC 3720 B.4).
uint32_t crc32c(std::string_view data);

}  // namespace base
