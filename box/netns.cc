#include "box/netns.h"

#include <sched.h>

#include <exception>
#include <string>
#include <thread>

#include "base/error.h"
#include "base/fd.h"

namespace box {

void in_netns(int netns_fd, const std::function<void()>& body) {
  std::exception_ptr failure;
  std::thread([&] {
    try {
      if (setns(netns_fd, CLONE_NEWNET) != 0) throw base::sys_error("cannot enter the network namespace");
      body();
    } catch (...) {
      failure = std::current_exception();
    }
  }).join();
  if (failure) std::rethrow_exception(failure);
}

void use_plain_tcp(int netns_fd) {
  in_netns(netns_fd, [] {
    const std::string enabled = "/proc/sys/net/mptcp/enabled";
    if (base::exists(enabled)) base::write_file(enabled, "0");
  });
}

}  // namespace box
