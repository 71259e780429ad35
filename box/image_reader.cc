#include "box/image_reader.h"

#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "base/fd.h"

namespace box {
namespace {

constexpr size_t kHead = 8;
enum Wire : unsigned { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };

base::Error malformed() { return base::error("CRIU's images are not as CRIU 4.2 writes them"); }

}  // namespace

ImageReader::ImageReader(std::span<const std::byte> image, size_t begin, size_t end)
    : image_(image), at_(begin), end_(end) {
  if (end > image.size() || begin > end) throw malformed();
}

ImageReader ImageReader::of_image(std::span<const std::byte> image) { return {image, kHead, image.size()}; }

ImageReader ImageReader::record() {
  uint32_t size = 0;
  if (end_ - at_ < sizeof size) throw malformed();
  std::memcpy(&size, image_.data() + at_, sizeof size);
  at_ += sizeof size;
  return skip(size);
}

ImageField ImageReader::field() {
  const uint64_t tag = varint();
  ImageField f{.number = static_cast<unsigned>(tag >> 3), .at = at_};
  switch (tag & 7) {
    case kVarint:
      f.value = varint();
      f.size = at_ - f.at;
      return f;
    case kBytes:
      f.size = varint();
      f.at = at_;
      break;
    case kFixed64:
      f.size = 8;
      break;
    case kFixed32:
      f.size = 4;
      break;
    default:
      throw malformed();
  }
  skip(f.size);
  return f;
}

ImageReader ImageReader::inside(const ImageField& field) const {
  return {image_, field.at, field.at + field.size};
}

ImageReader ImageReader::skip(size_t size) {
  if (size > end_ - at_) throw malformed();
  at_ += size;
  return {image_, at_ - size, at_};
}

uint64_t ImageReader::varint() {
  uint64_t value = 0;
  for (unsigned shift = 0; shift < 64; shift += 7) {
    if (at_ == end_) throw malformed();
    const auto byte = std::to_integer<uint64_t>(image_[at_++]);
    value |= (byte & 0x7f) << shift;
    if ((byte & 0x80) == 0) return value;
  }
  throw malformed();
}

std::vector<std::byte> read_image(int fd) {
  const off_t size = ::lseek(fd, 0, SEEK_END);
  if (size < 0 || size > kMostImageBytes) throw base::error("an image of {} bytes is none of CRIU's", size);
  std::vector<std::byte> bytes(static_cast<size_t>(size));
  ::lseek(fd, 0, SEEK_SET);
  base::read_full(fd, bytes);
  return bytes;
}

}  // namespace box
