// A round of a tree, as another node might send it. Whatever it says, nothing outside the directory that
// it is received into may change.

#include <fcntl.h>
#include <sys/stat.h>

#include <cstdlib>
#include <cstring>
#include <optional>

#include "base/error.h"
#include "base/fd.h"
#include "base/mount.h"
#include "migrate/tree.h"
#include "tests/unit/base/namespace.h"

namespace {

class InputSource : public migrate::Source {
 public:
  InputSource(const uint8_t* data, size_t size) : data_(data), size_(size) {}
  void read_exact(std::span<std::byte> out) override {
    if (out.size() > size_) throw base::error("the input ends here");
    std::memcpy(out.data(), data_, out.size());
    data_ += out.size();
    size_ -= out.size();
  }

 private:
  const uint8_t* data_;
  size_t size_;
};

/// In memory: half of what a mutated stream asks for is made before it is refused.
struct Place {
  Place() {
    base::enter_mount_namespace();
    directory.emplace(base::TempDir::make("/tmp", "drover-fuzz-"));
    mount.emplace(base::Mount::make("tmpfs", directory->path(), "tmpfs", 0, "size=64m"));
    root = directory->path() + "/root";
    outside = directory->path() + "/outside";
    base::write_file(outside, "untouched");
  }
  std::optional<base::TempDir> directory;
  std::optional<base::Mount> mount;
  std::string root, outside;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static Place place;
  base::make_directories(place.root);
  base::make_directories(place.root + "/directory");  // for streams of a later round
  base::write_file(place.root + "/directory/file", "content");
  base::Fd root = base::open(place.root, O_RDONLY | O_DIRECTORY);
  if (size > 8 && data[8] == 1) base::remove_tree(place.root + "/directory");
  InputSource source(data, size);
  try {
    migrate::receive_tree(root.get(), source);
  } catch (const base::Error&) {
    // Refused: what it was for.
  }
  root.close();
  base::remove_tree(place.root);
  struct stat outside, above;
  if (::stat(place.outside.c_str(), &outside) != 0 || base::read_file(place.outside) != "untouched" ||
      outside.st_nlink != 1 || outside.st_mode != (S_IFREG | 0644) || outside.st_uid != 0 ||
      ::stat(place.directory->path().c_str(), &above) != 0 || above.st_nlink != 2 || above.st_uid != 0)
    std::abort();
  return 0;
}
