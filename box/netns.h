#pragma once
#include <functional>

namespace box {

/// Runs `body` in the network namespace, in a thread of its own, so that the caller's namespace stays
/// what it is; what it throws is thrown here. Sockets opened and /proc/sys/net files written by `body`
/// are those of that namespace.
void in_netns(int netns_fd, const std::function<void()>& body);

}  // namespace box
