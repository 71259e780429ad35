#pragma once
#include <cstdint>
#include <string>

/// Messages of Protocol Buffers, as CRIU writes them.
namespace box {

inline std::string varint(uint64_t value) {
  std::string out;
  for (; value >= 0x80; value >>= 7) out += static_cast<char>((value & 0x7f) | 0x80);
  return out + static_cast<char>(value);
}
inline std::string number(unsigned field, uint64_t value) { return varint(field << 3) + varint(value); }
inline std::string bytes(unsigned field, const std::string& value) {
  return varint(field << 3 | 2) + varint(value.size()) + value;
}
inline std::string record(const std::string& message) {
  std::string size(4, '\0');
  for (size_t i = 0; i < 4; ++i) size[i] = static_cast<char>(message.size() >> (8 * i));
  return size + message;
}
inline const std::string kMagic = "\x19\x43\x56\x54\x38\x31\x30\x56";

}  // namespace box
