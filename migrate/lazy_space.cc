#include "migrate/lazy_space.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <format>

#include "base/error.h"

namespace migrate {

std::optional<uffd_msg> LazySpace::next() {
  uffd_msg event;
  while (fault) {
    const ssize_t got = ::read(fault.get(), &event, sizeof event);
    if (got < 0 && errno != EAGAIN && errno != EINTR)
      throw base::sys_error("cannot hear of the box's memory");
    if (got != sizeof event) return {};
    switch (event.event) {
      case UFFD_EVENT_PAGEFAULT:
      case UFFD_EVENT_FORK:
        return event;
      case UFFD_EVENT_REMAP:
        missing.move(event.arg.remap.from, event.arg.remap.to, event.arg.remap.len);
        // A fault at the old place that was told before is not served there any more.
        wake(event.arg.remap.from, event.arg.remap.len);
        break;
      case UFFD_EVENT_REMOVE: {
        // What is touched there from now on reads as zeros: the kernel does that alone.
        uffdio_range range{event.arg.remove.start, event.arg.remove.end - event.arg.remove.start};
        ::ioctl(fault.get(), UFFDIO_UNREGISTER, &range);
        [[fallthrough]];
      }
      case UFFD_EVENT_UNMAP:
        missing.drop_now(event.arg.remove.start, event.arg.remove.end);
        wake(event.arg.remove.start, event.arg.remove.end - event.arg.remove.start);
        break;
      default:
        throw base::error(
            "the kernel told of an event {} of the box's memory, which this version does not know",
            event.event);
    }
  }
  return {};
}

void LazySpace::wake(uint64_t begin, uint64_t length) const {
  uffdio_range range{begin, length};
  ::ioctl(fault.get(), UFFDIO_WAKE, &range);
}

void LazySpace::zero(uint64_t address) const {
  uffdio_zeropage zero{{address, kPageSize}, 0, 0};
  // EEXIST: it came meanwhile, and whoever waits has to be told.
  if (::ioctl(fault.get(), UFFDIO_ZEROPAGE, &zero) != 0) wake(address, kPageSize);
}

void LazySpace::copy(const Pages& pages, const std::function<void()>& drain) {
  const uint64_t base = pages.run.address, end = base + pages.run.bytes();
  uint64_t most = kMostPages * kPageSize;
  while (auto piece = missing.first_in(base, end)) {
    const uint64_t length = std::min(piece->end - piece->begin, most);
    uffdio_copy copy{};
    copy.dst = piece->now;
    copy.src = reinterpret_cast<uint64_t>(pages.data.data()) + (piece->begin - base);
    copy.len = length;
    if (::ioctl(fault.get(), UFFDIO_COPY, &copy) == 0) {
      missing.drop(piece->begin, piece->begin + length);
      continue;
    }
    const int err = errno;
    if (copy.copy > 0) {  // as far as that
      missing.drop(piece->begin, piece->begin + static_cast<uint64_t>(copy.copy));
    } else if (err == EAGAIN) {  // its memory map changes, and waits for us to hear of it
      drain();
    } else if (err == EEXIST) {
      wake(piece->now, kPageSize);
      missing.drop(piece->begin, piece->begin + kPageSize);
    } else if (err == ENOENT && length > kPageSize) {
      most = kPageSize;  // the run spans several mappings: page by page
    } else if (err == ENOENT) {
      missing.drop(piece->begin, piece->begin + kPageSize);  // unmapped: its event is on the way
    } else if (err == ESRCH || err == ENOSPC) {
      missing = {};  // the process has ended
      fault.close();
    } else {
      throw base::Error(std::format("cannot give the box its memory at {:#x}", piece->now), err);
    }
  }
}

}  // namespace migrate
