#include "box/criu.h"

#include <criu/criu.h>
#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <chrono>

#include "base/error.h"
#include "base/fd.h"
#include "box/criu_options.h"

namespace box {

std::string criu_version() {
  Options o = make_options();
  int v = criu_local_get_version(o.get());  // 40201 for 4.2.1
  if (v < 0)
    throw base::error("CRIU does not run on this node")
        .hint("`criu check` tells what is missing; is it installed?");
  return std::to_string(v / 10000) + "." + std::to_string(v / 100 % 100) + "." + std::to_string(v % 100);
}

bool can_restore_lazily() {
  Options o = make_options();
  struct criu_feature_check wanted{.mem_track = true, .lazy_pages = true, .pidfd_store = true};
  // As a side effect CRIU keeps what it has found out about the kernel (/run/criu.kdat): a dump or
  // restore that finds nothing there probes for it, 30 to 40 ms long, while the box is frozen.
  if (criu_local_feature_check(o.get(), &wanted, sizeof wanted) < 0) return false;
  return wanted.lazy_pages;
}

void wait_for_criu(const std::string& lock) {
  if (!base::exists(lock)) return;
  base::Fd fd = base::open(lock, O_RDWR);
  for (auto deadline = std::chrono::steady_clock::now() + std::chrono::minutes(1);
       ::flock(fd.get(), LOCK_EX | LOCK_NB) != 0; ::usleep(5000))
    if (std::chrono::steady_clock::now() > deadline)
      throw base::error("CRIU has been working on the box for a minute, and does not end")
          .hint("`fuser " + lock + "` names its process; look what it waits for before you end it");
}

}  // namespace box
