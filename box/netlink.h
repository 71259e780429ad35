#pragma once
#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/fd.h"

namespace box {

/// rtnetlink(7) in the kernel's own form, for what one kernel tells and another one is told again, byte by
/// byte. (Where drover makes something of its own, box/network.cc has libnl for it.) A content is what
/// stands behind a message's nlmsghdr: a struct of the message's family, then attributes.

struct Attribute {
  uint16_t type = 0;  ///< without the flags for nested ones and for the byte order
  std::string_view value;
};
/// nullopt where the text is no row of attributes.
std::optional<std::vector<Attribute>> parse_attributes(std::string_view text);
void put_attribute(std::string& text, uint16_t type, std::string_view value);

/// The struct that a content begins with; the caller has looked that it is that long.
template <class T>
T head_of(std::string_view content) {
  T head;
  std::copy_n(content.begin(), sizeof head, reinterpret_cast<char*>(&head));
  return head;
}
template <class T>
std::string_view bytes_of(const T& value) {
  return {reinterpret_cast<const char*>(&value), sizeof value};
}

class RouteSocket {
 public:
  RouteSocket();  ///< in the network namespace of the calling thread, and stays there
  /// The contents of all that the kernel has of a kind: `type` is an RTM_GET….
  std::vector<std::string> list(uint16_t type, std::string_view content);
  /// 0, or the errno that the kernel answers. `flags` are NLM_F_CREATE and its like.
  int ask(uint16_t type, uint16_t flags, std::string_view content);

 private:
  void send(uint16_t type, uint16_t flags, std::string_view content);
  base::Fd fd_;
  uint32_t sequence_ = 0;
  std::vector<char> buffer_;
};

}  // namespace box
