#pragma once
#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace box {

struct ImageField {
  unsigned number = 0;
  size_t at = 0, size = 0;  ///< of its value, in the image
  uint64_t value = 0;       ///< of a number
};

/// A part of one of CRIU's images, read from its beginning. CRIU 4.2: an image is two magic numbers and then
/// records, each its length (32 bits, little endian) and a message of Protocol Buffers (criu/include/magic.h,
/// images/*.proto). Throws where it is not.
class ImageReader {
 public:
  ImageReader(std::span<const std::byte> image, size_t begin, size_t end);
  /// The records of an image.
  static ImageReader of_image(std::span<const std::byte> image);

  [[nodiscard]] bool done() const { return at_ == end_; }
  [[nodiscard]] size_t place() const { return at_; }  ///< in the image
  /// The next record's message.
  ImageReader record();
  /// The next field of a message.
  ImageField field();
  /// The fields of the message that is this one's value.
  [[nodiscard]] ImageReader inside(const ImageField& field) const;

 private:
  ImageReader skip(size_t size);
  uint64_t varint();

  std::span<const std::byte> image_;
  size_t at_, end_;
};

/// All of an image. Throws where it is so large, or pretends to be, that it would take the node's memory: an
/// open file takes some 100 bytes, a connection with full queues some MB.
inline constexpr off_t kMostImageBytes = off_t{256} << 20;
std::vector<std::byte> read_image(int fd);

}  // namespace box
