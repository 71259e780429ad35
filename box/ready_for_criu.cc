#include "box/ready_for_criu.h"

#include <linux/perf_event.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace box {

ReadyForCriu::ReadyForCriu() {
  // The first event of a task switches on what the scheduler does for all of them, and waits until each
  // processor has seen that (account_event() of kernel/events/core.c). This one counts nothing.
  perf_event_attr attr{};
  attr.size = sizeof attr;
  attr.type = PERF_TYPE_SOFTWARE;
  attr.config = PERF_COUNT_SW_DUMMY;
  attr.disabled = 1;
  attr.exclude_kernel = 1;
  event_ = base::Fd(static_cast<int>(::syscall(SYS_perf_event_open, &attr, 0, -1, -1, PERF_FLAG_FD_CLOEXEC)));
}

}  // namespace box
