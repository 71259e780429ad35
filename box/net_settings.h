#pragma once
#include <cstdint>
#include <map>
#include <string>

namespace box {

/// What is below /proc/sys/net in a network namespace, as far as it can be read and
/// written: path there → value, without the line's end. Group ids are as the box counts them.
using NetSettings = std::map<std::string, std::string>;

NetSettings read_net_settings(int netns_fd, uint32_t id_base);
/// Sets what differs. A setting that this node's kernel has not, or lets nobody change, is left out.
/// In the network namespace of the calling thread.
void write_net_settings(const NetSettings& settings, uint32_t id_base);
/// Throws an Error for what is no such setting.
void check_net_setting(const std::string& path, const std::string& value);

}  // namespace box
