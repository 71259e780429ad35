#include "migrate/store.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>

#include "base/error.h"
#include "migrate/preflight.h"

namespace migrate {
namespace {

// A file in memory takes what there is, and then the kernel kills somebody.
constexpr uint64_t kCheckEvery = 64 << 20, kLeaveFree = 128 << 20;

void require_memory() {
  if (const uint64_t free = available_memory(); free < kLeaveFree)
    throw base::error("the destination has {} MB of memory left, too little for the rest of the box's",
                      free >> 20)
        .hint("choose a node with more memory");
}

}  // namespace

void Store::put(const Pages& pages) {
  std::unique_lock lock(mutex_);
  auto found = files_.find(pages.run.pid);
  if (found == files_.end()) {
    base::Fd file(::memfd_create("drover-memory", MFD_CLOEXEC));
    if (!file) throw base::sys_error("cannot make a file in memory");
    found = files_.emplace(pages.run.pid, File{std::move(file), {}}).first;
    require_memory();
  }
  if ((unchecked_ += pages.data.size()) > kCheckEvery) {
    require_memory();
    unchecked_ = 0;
  }
  lock.unlock();
  for (size_t done = 0; done < pages.data.size();) {
    const ssize_t put = ::pwrite(found->second.fd.get(), pages.data.data() + done, pages.data.size() - done,
                                 static_cast<off_t>(pages.run.address + done));
    if (put < 0 && errno != EINTR) throw base::sys_error("cannot keep the box's memory");
    if (put > 0) done += static_cast<size_t>(put);
  }
  lock.lock();
  found->second.held.add(pages.run.address, pages.run.address + pages.run.bytes());
}

void Store::drop(uint32_t pid, uint64_t begin, uint64_t end) {
  const auto found = files_.find(pid);
  if (found == files_.end()) return;
  found->second.held.drop(begin, end);
  if (::fallocate(found->second.fd.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                  static_cast<off_t>(begin), static_cast<off_t>(end - begin)) != 0)
    throw base::sys_error("cannot drop memory of the box");
}

std::optional<PageSet::Piece> Store::first_in(uint32_t pid, uint64_t begin, uint64_t end) const {
  const auto found = files_.find(pid);
  return found == files_.end() ? std::nullopt : found->second.held.first_in(begin, end);
}

Pages Store::read(const PageRun& run) const {
  Pages pages{run, std::vector<std::byte>(run.bytes())};
  const base::Fd& file = files_.at(run.pid).fd;
  for (size_t done = 0; done < pages.data.size();) {
    const ssize_t got = ::pread(file.get(), pages.data.data() + done, pages.data.size() - done,
                                static_cast<off_t>(run.address + done));
    if (got == 0) throw base::error("memory of the box is not here at {:#x}", run.address + done);
    if (got < 0 && errno != EINTR) throw base::sys_error("cannot read memory of the box");
    if (got > 0) done += static_cast<size_t>(got);
  }
  return pages;
}

}  // namespace migrate
