#include "image/slot_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <format>

#include "base/error.h"
#include "base/fd.h"

namespace image {

SlotState read_slot_state(const std::string& path) {
  return base::in_context(std::format("reading {}", path),
                          [&] { return parse_slot_state(base::read_file(path, kSectorSize)); });
}

void write_slot_state(const std::string& path, const SlotState& state) {
  base::Fd file = base::open(path, O_RDWR | O_NOFOLLOW);
  struct stat about = {};
  if (fstat(file.get(), &about) < 0) throw base::sys_error("cannot look at {}", path);
  if (!S_ISREG(about.st_mode) || about.st_size != static_cast<off_t>(kSectorSize)) {
    throw base::error("{} is not a file of {} bytes, so it is not written to", path, kSectorSize)
        .hint("it is made with the disk; install the node anew over the network");
  }
  const std::string sector = render(state);
  if (pwrite(file.get(), sector.data(), sector.size(), 0) != static_cast<ssize_t>(sector.size())) {
    throw base::sys_error("cannot write {}", path);
  }
  if (fdatasync(file.get()) < 0) throw base::sys_error("cannot put {} on disk", path);
  if (read_slot_state(path) != state) throw base::error("{} does not hold what was written to it", path);
}

}  // namespace image
