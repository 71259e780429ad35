#include "base/hash.h"

#include <fcntl.h>
#include <openssl/evp.h>
#include <sodium.h>

#include <array>
#include <vector>

#include "base/error.h"
#include "base/fd.h"

namespace base {

namespace {

/// Looked up once: for short data that would take longer than the hash.
const EVP_MD* sha256_method() {
  static const std::unique_ptr<EVP_MD, decltype(&EVP_MD_free)> method(
      EVP_MD_fetch(nullptr, "SHA256", nullptr), &EVP_MD_free);
  if (!method) throw error("libcrypto has no SHA-256");
  return method.get();
}

void require(int done) {
  if (done != 1) throw error("libcrypto cannot make a SHA-256");
}

}  // namespace

struct Sha256::State {
  std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context{EVP_MD_CTX_new(), &EVP_MD_CTX_free};
};

Sha256::Sha256() : state_(std::make_unique<State>()) {
  require(EVP_DigestInit_ex2(state_->context.get(), sha256_method(), nullptr));
}
Sha256::~Sha256() = default;

void Sha256::add(std::span<const std::byte> data) {
  require(EVP_DigestUpdate(state_->context.get(), data.data(), data.size()));
}

Sha256::Digest Sha256::digest() {
  Digest digest;
  require(
      EVP_DigestFinal_ex(state_->context.get(), reinterpret_cast<unsigned char*>(digest.data()), nullptr));
  return digest;
}

std::string Sha256::hex() { return to_hex(digest()); }

struct Blake2b::State {
  crypto_generichash_state sodium;
};

Blake2b::Blake2b() : state_(std::make_unique<State>()) {
  crypto_generichash_init(&state_->sodium, nullptr, 0, Digest{}.size());
}
Blake2b::~Blake2b() = default;

void Blake2b::add(std::span<const std::byte> data) {
  crypto_generichash_update(&state_->sodium, reinterpret_cast<const unsigned char*>(data.data()),
                            data.size());
}

Blake2b::Digest Blake2b::digest() {
  Digest digest;
  crypto_generichash_final(&state_->sodium, reinterpret_cast<unsigned char*>(digest.data()), digest.size());
  return digest;
}

std::string to_hex(std::span<const std::byte> bytes) {
  std::string text(2 * bytes.size() + 1, '\0');
  sodium_bin2hex(text.data(), text.size(), reinterpret_cast<const unsigned char*>(bytes.data()),
                 bytes.size());
  text.pop_back();  // sodium's terminating NUL
  return text;
}

std::optional<std::string> from_hex(std::string_view digits) {
  if (digits.size() % 2 != 0 || digits.find_first_not_of("0123456789abcdef") != std::string_view::npos)
    return std::nullopt;
  std::string bytes(digits.size() / 2, '\0');
  sodium_hex2bin(reinterpret_cast<unsigned char*>(bytes.data()), bytes.size(), digits.data(), digits.size(),
                 nullptr, nullptr, nullptr);
  return bytes;
}

std::string sha256_hex(std::string_view text) {
  Sha256 hash;
  hash.add(std::as_bytes(std::span(text)));
  return hash.hex();
}

std::string sha256_file_hex(const std::string& path) {
  Fd fd = open(path, O_RDONLY);
  Sha256 hash;
  std::vector<std::byte> piece(256 << 10);
  const std::vector<std::byte> zeros(piece.size());
  off_t at = 0;
  while (true) {
    // Holes are not read: the kernel would make a page of memory for each of theirs.
    off_t data = ::lseek(fd.get(), at, SEEK_DATA);
    if (data < 0 && errno == ENXIO) data = std::max(at, ::lseek(fd.get(), 0, SEEK_END));
    if (data < 0) data = at;  // a file that has no places, such as a pipe, has no holes either
    while (at < data) {
      size_t size = static_cast<size_t>(std::min<off_t>(data - at, static_cast<off_t>(zeros.size())));
      hash.add(std::span(zeros).first(size));
      at += static_cast<off_t>(size);
    }
    if (::lseek(fd.get(), at, SEEK_SET) < 0 && errno != ESPIPE) throw sys_error("cannot read {}", path);
    // A piece may go on into the next hole.
    size_t size = read_full(fd.get(), piece);
    if (size == 0) return hash.hex();
    hash.add(std::span(piece).first(size));
    at += static_cast<off_t>(size);
  }
}

uint32_t crc32c(std::string_view data) {
  static constexpr auto kTable = [] {
    std::array<uint32_t, 256> table{};
    for (uint32_t i = 0; i < table.size(); ++i) {
      uint32_t crc = i;
      for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) != 0 ? 0x82F63B78u : 0u);
      table[i] = crc;
    }
    return table;
  }();
  uint32_t crc = ~0u;
  for (char c : data) crc = (crc >> 8) ^ kTable[(crc ^ static_cast<unsigned char>(c)) & 0xff];
  return ~crc;
}

}  // namespace base
