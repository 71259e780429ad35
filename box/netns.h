#pragma once
#include <functional>

namespace box {

/// Runs `body` in the network namespace, in a thread of its own, so that the caller's namespace stays
/// what it is; what it throws is thrown here. Sockets opened and /proc/sys/net files written by `body`
/// are those of that namespace.
void in_netns(int netns_fd, const std::function<void()>& body);

/// Turns multipath TCP off in the network namespace (Linux has it on): a program that asks for it, as Go's
/// net.Listen does by itself, gets plain TCP, which is what CRIU 4.2 can move.
void use_plain_tcp(int netns_fd);

}  // namespace box
