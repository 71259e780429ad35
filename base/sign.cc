#include "base/sign.h"

#include <fcntl.h>
#include <sodium.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <optional>
#include <span>
#include <vector>

#include "base/error.h"
#include "base/fd.h"
#include "base/log.h"

// The formats are those of minisign 0.12 (https://jedisct1.github.io/minisign/, "Signature
// format"): two-letter algorithm, 8 bytes of key number, then the key or the signature.

namespace base {
namespace {

using Bytes = std::vector<unsigned char>;

constexpr size_t kNumber = 8;
constexpr size_t kPublicKeyFile = 2 + kNumber + crypto_sign_PUBLICKEYBYTES;
constexpr size_t kSignatureFile = 2 + kNumber + crypto_sign_BYTES;
constexpr size_t kChecksum = crypto_generichash_BYTES;
// "Ed", no KDF (2), "B2", salt and limits of the KDF (32 + 8 + 8), number, key, checksum
constexpr size_t kSecretHead = 2 + 2 + 2 + 32 + 8 + 8;
constexpr size_t kSecretKeyFile = kSecretHead + kNumber + crypto_sign_SECRETKEYBYTES + kChecksum;
constexpr std::string_view kUntrusted = "untrusted comment: ";
constexpr std::string_view kTrusted = "trusted comment: ";

struct PublicKey {
  std::string file;
  std::array<unsigned char, kNumber> number;
  std::array<unsigned char, crypto_sign_PUBLICKEYBYTES> key;
};

struct SecretKey {
  std::array<unsigned char, kNumber> number;
  std::array<unsigned char, crypto_sign_SECRETKEYBYTES> key;
  ~SecretKey() { sodium_memzero(key.data(), key.size()); }
};

void start_sodium() {
  if (sodium_init() < 0) throw base::error("libsodium does not start");
}

const unsigned char* bytes(std::string_view text) {
  return reinterpret_cast<const unsigned char*>(text.data());
}

void append(Bytes& to, std::span<const unsigned char> more) { to.insert(to.end(), more.begin(), more.end()); }
void append(Bytes& to, std::string_view more) { append(to, std::span(bytes(more), more.size())); }

std::string base64(const Bytes& data) {
  std::string text(sodium_base64_encoded_len(data.size(), sodium_base64_VARIANT_ORIGINAL), '\0');
  sodium_bin2base64(text.data(), text.size(), data.data(), data.size(), sodium_base64_VARIANT_ORIGINAL);
  text.pop_back();  // its terminating zero
  return text;
}

std::optional<Bytes> from_base64(std::string_view text, size_t size) {
  Bytes data(size);
  size_t got = 0;
  if (sodium_base642bin(data.data(), size, text.data(), text.size(), nullptr, &got, nullptr,
                        sodium_base64_VARIANT_ORIGINAL) != 0 ||
      got != size)
    return std::nullopt;
  return data;
}

/// Takes the next line off `text`, without its line end.
std::string_view next_line(std::string_view& text) {
  size_t end = text.find('\n');
  std::string_view line = text.substr(0, end);
  text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
  return line.ends_with('\r') ? line.substr(0, line.size() - 1) : line;
}

const unsigned char* bytes(const Blake2b::Digest& hash) {
  return reinterpret_cast<const unsigned char*>(hash.data());
}

Blake2b::Digest prehash(std::string_view message) {
  Blake2b hash;
  hash.add(std::as_bytes(std::span(message)));
  return hash.digest();
}

std::string render(const SecretKey& secret) {
  Bytes data;
  append(data, "Ed");
  data.resize(4);  // no KDF
  append(data, "B2");
  data.resize(kSecretHead);
  append(data, secret.number);
  append(data, secret.key);
  data.resize(kSecretKeyFile);  // the checksum: none without a password
  return std::format("{}drover's secret key, without a password\n{}\n", kUntrusted, base64(data));
}

std::string render(const PublicKey& key) {
  Bytes data;
  append(data, "Ed");
  append(data, key.number);
  append(data, key.key);
  uint64_t number = 0;
  for (size_t i = kNumber; i-- > 0;) number = number << 8 | key.number[i];
  return std::format("{}minisign public key {:016X}\n{}\n", kUntrusted, number, base64(data));
}

SecretKey parse_secret_key(std::string_view text, const std::string& file) {
  next_line(text);
  std::optional<Bytes> data = from_base64(next_line(text), kSecretKeyFile);
  auto bad = [&](std::string_view why) {
    return base::error("{} is not a key that drover can sign with: {}", file, why)
        .hint("it is a minisign secret key without a password (minisign -G -W)");
  };
  if (!data) throw bad("it is not in minisign's format");
  if ((*data)[2] != 0 || (*data)[3] != 0) throw bad("it has a password");
  SecretKey secret;
  std::copy_n(data->begin() + kSecretHead, kNumber, secret.number.begin());
  std::copy_n(data->begin() + kSecretHead + kNumber, secret.key.size(), secret.key.begin());
  sodium_memzero(data->data(), data->size());
  // Its first half makes the second one.
  SecretKey again;
  std::array<unsigned char, crypto_sign_PUBLICKEYBYTES> ignored;
  crypto_sign_seed_keypair(ignored.data(), again.key.data(), secret.key.data());
  if (again.key != secret.key) throw bad("it is damaged");
  return secret;
}

std::optional<PublicKey> parse_public_key(std::string_view text, const std::string& file) {
  next_line(text);
  std::optional<Bytes> data = from_base64(next_line(text), kPublicKeyFile);
  if (!data || (*data)[0] != 'E' || (*data)[1] != 'd') return std::nullopt;
  PublicKey key = {.file = file, .number = {}, .key = {}};
  std::copy_n(data->begin() + 2, kNumber, key.number.begin());
  std::copy_n(data->begin() + 2 + kNumber, key.key.size(), key.key.begin());
  return key;
}

std::vector<PublicKey> trusted_keys(const std::string& directory) {
  std::vector<PublicKey> keys;
  std::error_code none;
  for (const auto& entry : std::filesystem::directory_iterator(directory, none)) {
    if (entry.path().extension() != ".pub") continue;
    std::string file = entry.path();
    if (auto key = parse_public_key(base::read_file(file, 64 << 10), file))
      keys.push_back(*key);
    else
      base::warn("{} is not a minisign public key; it is not used", file);
  }
  std::ranges::sort(keys, {}, &PublicKey::file);
  return keys;
}

/// Reads our key, or makes it: the public key first, so that a crash between the two
/// leaves at worst a public key that nobody can sign for, which the next try replaces.
SecretKey local_key(const std::string& directory) {
  std::string file = directory + "/local.key";
  base::make_directories(directory, 0755);
  base::Fd lock = base::open(directory, O_RDONLY | O_DIRECTORY);
  if (::flock(lock.get(), LOCK_EX) != 0) throw base::sys_error("cannot lock {}", directory);
  if (auto text = base::read_file_if_exists(file, 64 << 10)) return parse_secret_key(*text, file);
  SecretKey secret;
  PublicKey key = {.file = directory + "/local.pub", .number = {}, .key = {}};
  randombytes_buf(secret.number.data(), kNumber);
  key.number = secret.number;
  crypto_sign_keypair(key.key.data(), secret.key.data());
  base::write_file_atomically(key.file, render(key));
  base::write_file_atomically(file, render(secret), 0600);
  return secret;
}

struct Signature {
  std::array<unsigned char, kNumber> number;
  std::array<unsigned char, crypto_sign_BYTES> over_message, over_comment;
  bool prehashed;
  std::string comment;
};

std::optional<Signature> parse_signature(std::string_view text) {
  if (!next_line(text).starts_with(kUntrusted)) return std::nullopt;
  std::optional<Bytes> data = from_base64(next_line(text), kSignatureFile);
  std::string_view comment = next_line(text);
  std::optional<Bytes> global = from_base64(next_line(text), crypto_sign_BYTES);
  if (!data || !global || !comment.starts_with(kTrusted) || (*data)[0] != 'E') return std::nullopt;
  if ((*data)[1] != 'D' && (*data)[1] != 'd') return std::nullopt;
  Signature signature = {.number = {},
                         .over_message = {},
                         .over_comment = {},
                         .prehashed = (*data)[1] == 'D',
                         .comment = std::string(comment.substr(kTrusted.size()))};
  std::copy_n(data->begin() + 2, kNumber, signature.number.begin());
  std::copy_n(data->begin() + 2 + kNumber, crypto_sign_BYTES, signature.over_message.begin());
  std::copy_n(global->begin(), crypto_sign_BYTES, signature.over_comment.begin());
  return signature;
}

/// What the second signature is over: the first one and the trusted comment.
Bytes global_input(std::span<const unsigned char> signature, std::string_view comment) {
  Bytes input;
  append(input, signature);
  append(input, comment);
  return input;
}

bool matches(const Signature& signature, const PublicKey& key, const Blake2b::Digest& hash,
             const std::string_view* message) {
  if (!signature.prehashed && !message) return false;
  const unsigned char* input = signature.prehashed ? bytes(hash) : bytes(*message);
  size_t size = signature.prehashed ? hash.size() : message->size();
  Bytes global = global_input(signature.over_message, signature.comment);
  return crypto_sign_verify_detached(signature.over_message.data(), input, size, key.key.data()) == 0 &&
         crypto_sign_verify_detached(signature.over_comment.data(), global.data(), global.size(),
                                     key.key.data()) == 0;
}

}  // namespace

std::string Keys::sign(std::string_view message, const std::string& comment) const {
  return sign(prehash(message), comment);
}

std::string Keys::sign(const Blake2b::Digest& hash, const std::string& comment) const {
  start_sodium();
  SecretKey secret = local_key(directory_);
  std::array<unsigned char, crypto_sign_BYTES> first, second;
  crypto_sign_detached(first.data(), nullptr, bytes(hash), hash.size(), secret.key.data());
  Bytes global = global_input(first, comment);
  crypto_sign_detached(second.data(), nullptr, global.data(), global.size(), secret.key.data());
  Bytes data;
  append(data, "ED");
  append(data, secret.number);
  append(data, first);
  return std::format("{}signature by drover\n{}\n{}{}\n{}\n", kUntrusted, base64(data), kTrusted, comment,
                     base64(Bytes(second.begin(), second.end())));
}

void Keys::verify(std::string_view message, std::string_view signature, const std::string& what) const {
  verify(prehash(message), &message, signature, what);
}

void Keys::verify(const Blake2b::Digest& hash, std::string_view signature, const std::string& what) const {
  verify(hash, nullptr, signature, what);
}

void Keys::verify(const Blake2b::Digest& hash, const std::string_view* message, std::string_view signature,
                  const std::string& what) const {
  start_sodium();
  std::optional<Signature> parsed = parse_signature(signature);
  if (!parsed)
    throw base::error("the signature of {} is not in minisign's format", what)
        .hint("fetch it again, or make it again");
  bool known = false;
  for (const PublicKey& key : trusted_keys(directory_)) {
    if (key.number != parsed->number) continue;
    known = true;
    if (matches(*parsed, key, hash, message)) return;
  }
  if (known)
    throw base::error("{} does not match its signature: it was changed after it was signed", what)
        .hint("fetch it again, or make it again");
  throw base::error("{} is not signed by a key that is trusted here", what)
      .hint(std::format("to trust the machine that made it, copy its {}/local.pub to {}/NAME.pub here",
                        std::filesystem::path(directory_).filename().string(), directory_));
}

}  // namespace base
