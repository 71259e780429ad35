#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

#include <cstring>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/fd.h"
#include "box/images.h"

namespace box {
namespace {

// CRIU 4.2: an image is two magic numbers and then records, each its length (32 bits, little endian) and a
// message of Protocol Buffers (criu/include/magic.h, images/*.proto).
constexpr size_t kHead = 8;
constexpr unsigned kMmExe = 12;                // mm_entry.exe_file_id
constexpr unsigned kFileReg = 3;               // file_entry.reg
constexpr unsigned kRegId = 1, kRegFlags = 2;  // reg_file_entry
enum Wire : unsigned { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };

struct Field {
  unsigned number = 0;
  size_t at = 0, size = 0;  ///< of its value, in the image
  uint64_t value = 0;       ///< of a varint
};

/// A part of an image, read from its beginning.
class Reader {
 public:
  Reader(std::span<const std::byte> image, size_t begin, size_t end) : image_(image), at_(begin), end_(end) {
    if (end > image.size() || begin > end) throw malformed();
  }
  [[nodiscard]] bool done() const { return at_ == end_; }

  /// The next record's message.
  Reader record() {
    uint32_t size = 0;
    if (end_ - at_ < sizeof size) throw malformed();
    std::memcpy(&size, image_.data() + at_, sizeof size);
    at_ += sizeof size;
    return skip(size);
  }

  Field field() {
    const uint64_t tag = varint();
    Field f{.number = static_cast<unsigned>(tag >> 3), .at = at_};
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

 private:
  static base::Error malformed() { return base::error("CRIU's images are not as CRIU 4.2 writes them"); }

  Reader skip(size_t size) {
    if (size > end_ - at_) throw malformed();
    at_ += size;
    return {image_, at_ - size, at_};
  }

  uint64_t varint() {
    uint64_t value = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
      if (at_ == end_) throw malformed();
      const auto byte = std::to_integer<uint64_t>(image_[at_++]);
      value |= (byte & 0x7f) << shift;
      if ((byte & 0x80) == 0) return value;
    }
    throw malformed();
  }

  std::span<const std::byte> image_;
  size_t at_, end_;
};

std::vector<std::byte> read_image(int fd) {
  std::vector<std::byte> bytes(static_cast<size_t>(::lseek(fd, 0, SEEK_END)));
  ::lseek(fd, 0, SEEK_SET);
  base::read_full(fd, bytes);
  return bytes;
}

/// The files that processes were started from, as CRIU numbers them.
std::set<uint64_t> executables(int images) {
  std::set<uint64_t> ids;
  base::Fd dir = base::open_at(images, ".", O_RDONLY | O_DIRECTORY);
  std::unique_ptr<DIR, int (*)(DIR*)> entries(::fdopendir(dir.release()), ::closedir);
  if (!entries) throw base::sys_error("cannot read the images");
  while (const dirent* e = ::readdir(entries.get())) {
    if (!std::string_view(e->d_name).starts_with("mm-")) continue;
    const auto image = read_image(base::open_at(images, e->d_name, O_RDONLY | O_NOFOLLOW).get());
    for (Reader mm = Reader(image, kHead, image.size()).record(); !mm.done();)
      if (const Field f = mm.field(); f.number == kMmExe) ids.insert(f.value);
  }
  return ids;
}

/// As many bytes as before: the number with zeros in front.
void put_varint(std::span<std::byte> place, uint64_t value) {
  for (size_t i = 0; i < place.size(); ++i, value >>= 7)
    place[i] = static_cast<std::byte>((value & 0x7f) | (i + 1 < place.size() ? 0x80 : 0));
}

}  // namespace

void open_executables(int images) {
  const auto wanted = executables(images);
  const base::Fd file = base::open_at(images, "files.img", O_RDWR | O_NOFOLLOW);
  auto image = read_image(file.get());
  bool changed = false;
  for (Reader records(image, kHead, image.size()); !records.done();)
    for (Reader entry = records.record(); !entry.done();) {
      const Field reg = entry.field();
      if (reg.number != kFileReg) continue;
      Field id, flags;
      for (Reader in(image, reg.at, reg.at + reg.size); !in.done();) {
        const Field f = in.field();
        if (f.number == kRegId) id = f;
        if (f.number == kRegFlags) flags = f;
      }
      if ((flags.value & O_PATH) == 0 || !wanted.contains(id.value)) continue;
      put_varint(std::span(image).subspan(flags.at, flags.size), flags.value & ~uint64_t{O_PATH});
      changed = true;
    }
  if (changed && ::pwrite(file.get(), image.data(), image.size(), 0) != static_cast<ssize_t>(image.size()))
    throw base::sys_error("cannot change the image files.img");
}

}  // namespace box
