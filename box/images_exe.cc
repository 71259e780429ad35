#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

#include <memory>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/fd.h"
#include "box/image_reader.h"
#include "box/images.h"

namespace box {
namespace {

// images/*.proto of CRIU 4.2.
constexpr unsigned kMmExe = 12;                // mm_entry.exe_file_id
constexpr unsigned kFileReg = 3;               // file_entry.reg
constexpr unsigned kRegId = 1, kRegFlags = 2;  // reg_file_entry

/// The files that processes were started from, as CRIU numbers them.
std::set<uint64_t> executables(int images) {
  std::set<uint64_t> ids;
  base::Fd dir = base::open_at(images, ".", O_RDONLY | O_DIRECTORY);
  std::unique_ptr<DIR, int (*)(DIR*)> entries(::fdopendir(dir.release()), ::closedir);
  if (!entries) throw base::sys_error("cannot read the images");
  while (const dirent* e = ::readdir(entries.get())) {
    if (!std::string_view(e->d_name).starts_with("mm-")) continue;
    const auto image = read_image(base::open_at(images, e->d_name, O_RDONLY | O_NOFOLLOW).get());
    for (ImageReader mm = ImageReader::of_image(image).record(); !mm.done();)
      if (const ImageField f = mm.field(); f.number == kMmExe) ids.insert(f.value);
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
  for (ImageReader records = ImageReader::of_image(image); !records.done();)
    for (ImageReader entry = records.record(); !entry.done();) {
      const ImageField reg = entry.field();
      if (reg.number != kFileReg) continue;
      ImageField id, flags;
      for (ImageReader in = records.inside(reg); !in.done();) {
        const ImageField f = in.field();
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
