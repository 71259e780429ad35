#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace base {

/// SHA-256 (libcrypto, which has the processors' instructions for it), given piece by piece.
class Sha256 {
 public:
  using Digest = std::array<std::byte, 32>;
  Sha256();
  ~Sha256();
  void add(std::span<const std::byte> data);
  [[nodiscard]] Digest digest();    ///< once, at the end
  [[nodiscard]] std::string hex();  ///< the same as 64 digits, in its place

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

std::string to_hex(std::span<const std::byte> bytes);  ///< lower-case digits
/// The bytes that hex digits name; nullopt when they are not whole bytes in lower-case digits.
std::optional<std::string> from_hex(std::string_view digits);

std::string sha256_hex(std::string_view text);
std::string sha256_file_hex(const std::string& path);
/// CRC-32C (Castagnoli, as in RFC 3720 B.4).
uint32_t crc32c(std::string_view data);

}  // namespace base
