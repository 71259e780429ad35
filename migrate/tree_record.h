#pragma once
#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "base/error.h"
#include "migrate/stream.h"
#include "migrate/tree_format.h"

namespace migrate {

/// Appends a number as it stands on the wire.
template <std::unsigned_integral Number>
void put(std::string& out, Number number) {
  for (size_t i = 0; i < sizeof number; ++i) out.push_back(static_cast<char>(number >> (8 * i)));
}

/// Gathers small pieces on their way to a Sink.
class RecordWriter {
 public:
  explicit RecordWriter(Sink& sink) : sink_(sink) {}

  void tag(Tag tag) {
    if (buffer_.size() >= kFlush) flush();
    u8(static_cast<uint8_t>(tag));
  }
  void u8(uint8_t number) { put(buffer_, number); }
  void u16(uint16_t number) { put(buffer_, number); }
  void u32(uint32_t number) { put(buffer_, number); }
  void u64(uint64_t number) { put(buffer_, number); }
  void name(std::string_view name) {
    u8(static_cast<uint8_t>(name.size()));
    buffer_ += name;
  }
  void raw(std::string_view bytes) { buffer_ += bytes; }
  void data(std::span<const std::byte> bytes) {
    flush();
    sink_.write(bytes);
  }
  void flush() {
    if (!buffer_.empty()) sink_.write(std::as_bytes(std::span(buffer_)));
    buffer_.clear();
  }

 private:
  static constexpr size_t kFlush = 32 << 10;
  Sink& sink_;
  std::string buffer_;
};

/// An Error for a stream that no sender of ours makes.
template <class... Args>
[[nodiscard]] base::Error bad_tree(std::format_string<Args...> fmt, Args&&... args) {
  return base::error("the other node sent a tree that cannot be right: {}",
                     std::format(fmt, std::forward<Args>(args)...));
}

/// Takes pieces from a Source. Everything is checked against its bound before room is made for it.
class RecordReader {
 public:
  explicit RecordReader(Source& source) : source_(source) {}

  uint8_t u8() { return number<uint8_t>(); }
  uint16_t u16() { return number<uint16_t>(); }
  uint32_t u32() { return number<uint32_t>(); }
  uint64_t u64() { return number<uint64_t>(); }
  /// So many bytes.
  std::string text(size_t length) {
    std::string text(length, '\0');
    source_.read_exact(std::as_writable_bytes(std::span(text)));
    return text;
  }
  /// The name of one entry of a directory: nothing that could lead elsewhere.
  std::string name();
  void data(std::span<std::byte> out) { source_.read_exact(out); }

 private:
  template <std::unsigned_integral Number>
  Number number() {
    std::array<std::byte, sizeof(Number)> bytes;
    source_.read_exact(bytes);
    Number number = 0;
    for (size_t i = 0; i < bytes.size(); ++i)
      number = static_cast<Number>(number | std::to_integer<Number>(bytes[i]) << (8 * i));
    return number;
  }
  Source& source_;
};

}  // namespace migrate
