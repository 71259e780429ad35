#include "image/ssh_key.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <format>
#include <optional>

namespace image {
namespace {

struct Type {
  std::string_view name;
  int strings;  ///< in the blob, the name itself among them
};

/// As sshd(8), AUTHORIZED_KEYS FILE FORMAT, lists them; no DSA, which sshd has dropped. Their blobs: RFC
/// 4253, 6.6; RFC 5656, 3.1; RFC 8709, 4; OpenSSH's PROTOCOL.u2f.
constexpr std::array<Type, 7> kTypes = {{
    {"ssh-ed25519", 2},
    {"ssh-rsa", 3},
    {"ecdsa-sha2-nistp256", 3},
    {"ecdsa-sha2-nistp384", 3},
    {"ecdsa-sha2-nistp521", 3},
    {"sk-ssh-ed25519@openssh.com", 3},
    {"sk-ecdsa-sha2-nistp256@openssh.com", 4},
}};

constexpr std::string_view kDigits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Standard base64 with its padding (RFC 4648, 4); nothing when it is something else.
std::optional<std::string> from_base64(std::string_view text) {
  if (text.empty() || text.size() % 4 != 0) return std::nullopt;
  size_t padding = text.ends_with("==") ? 2 : text.ends_with('=') ? 1 : 0;
  std::string bytes;
  uint32_t bits = 0;
  for (size_t i = 0; i < text.size() - padding; ++i) {
    size_t digit = kDigits.find(text[i]);
    if (digit == std::string_view::npos) return std::nullopt;
    bits = (bits << 6 | static_cast<uint32_t>(digit)) & 0xff'ffff;
    // Six bits come in; whenever eight or more are there, the upper eight are a byte.
    if (i % 4 != 0) bytes.push_back(static_cast<char>(bits >> (6 - 2 * (i % 4))));
  }
  return bytes;
}

/// The first string of the blob, which is taken off; nothing when it is cut off.
std::optional<std::string_view> next_string(std::string_view& blob) {
  if (blob.size() < 4) return std::nullopt;
  uint32_t size = 0;
  for (char byte : blob.substr(0, 4)) size = size << 8 | static_cast<uint8_t>(byte);
  if (size > blob.size() - 4) return std::nullopt;
  std::string_view text = blob.substr(4, size);
  blob.remove_prefix(4 + static_cast<size_t>(size));
  return text;
}

bool whole(std::string_view blob, const Type& type) {
  if (next_string(blob) != type.name) return false;
  for (int left = type.strings - 1; left > 0; --left)
    if (std::optional<std::string_view> part = next_string(blob); !part || part->empty()) return false;
  return blob.empty();
}

std::string shortened(std::string_view text) {
  constexpr size_t kMost = 40;
  return text.size() <= kMost ? std::string(text) : std::string(text.substr(0, kMost)) + "…";
}

}  // namespace

std::string problem_with_ssh_key(std::string_view line) {
  constexpr std::string_view kExpected = "expected the line of a .pub file (TYPE BASE64 COMMENT), found ";
  if (line.contains("PRIVATE KEY")) return std::format("{}a private key", kExpected);
  if (std::ranges::any_of(line, [](char c) { return static_cast<unsigned char>(c) < ' ' || c == '\x7f'; }))
    return std::format("{}one with a line break or control character", kExpected);
  size_t space = line.find(' ');
  std::string_view name = line.substr(0, space);
  const auto* type = std::ranges::find(kTypes, name, &Type::name);
  if (type == kTypes.end()) return std::format("{}the type \"{}\"", kExpected, shortened(name));
  std::string_view rest = space == std::string_view::npos ? "" : line.substr(space + 1);
  std::optional<std::string> blob = from_base64(rest.substr(0, rest.find(' ')));
  if (!blob || !whole(*blob, *type))
    return std::format("{}a key of type {} that is cut off or changed", kExpected, name);
  return "";
}

}  // namespace image
