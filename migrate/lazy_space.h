#pragma once
#include <linux/userfaultfd.h>

#include <cstdint>
#include <functional>
#include <optional>

#include "base/fd.h"
#include "migrate/page_set.h"
#include "migrate/pages.h"

namespace migrate {

/// The address space of a process that runs before all its memory is there. userfaultfd(2) tells what becomes
/// of it, and puts pages into it.
struct LazySpace {
  uint32_t pid;
  base::Fd fault;  ///< its userfaultfd, which does not block; closed when the process has ended
  PageSet missing;

  /// What has happened there and needs an answer: a page fault, or a fork. Keeps `missing` right on the way.
  /// nullopt: nothing now.
  std::optional<uffd_msg> next();
  /// Lets those go on that wait for a page there: they find it, or fault again.
  void wake(uint64_t begin, uint64_t length) const;
  void zero(uint64_t address) const;
  /// Puts in what is missing of `pages`. `drain` has to take events until there are none: it is called when
  /// the kernel waits for that.
  void copy(const Pages& pages, const std::function<void()>& drain);
};

}  // namespace migrate
