#include "box/netlink.h"

#include <linux/netlink.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <cerrno>

#include "base/error.h"

namespace box {

std::optional<std::vector<Attribute>> parse_attributes(std::string_view text) {
  std::vector<Attribute> found;
  while (!text.empty()) {
    if (text.size() < sizeof(nlattr)) return std::nullopt;
    const auto head = head_of<nlattr>(text);
    if (head.nla_len < sizeof(nlattr) || head.nla_len > text.size()) return std::nullopt;
    found.push_back({static_cast<uint16_t>(head.nla_type & NLA_TYPE_MASK),
                     text.substr(NLA_HDRLEN, head.nla_len - NLA_HDRLEN)});
    text.remove_prefix(std::min<size_t>(NLA_ALIGN(head.nla_len), text.size()));
  }
  return found;
}

void put_attribute(std::string& text, uint16_t type, std::string_view value) {
  const nlattr head = {static_cast<uint16_t>(NLA_HDRLEN + value.size()), type};
  text += bytes_of(head);
  text += value;
  text.resize(NLA_ALIGN(text.size()));
}

RouteSocket::RouteSocket()
    : fd_(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE)), buffer_(256 << 10) {
  if (!fd_) throw base::sys_error("cannot open a netlink socket");
  // The kernel answers before send returns; this is for a kernel that does not.
  const timeval patience = {5, 0};
  if (::setsockopt(fd_.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience) != 0)
    throw base::sys_error("cannot set a time limit on a netlink socket");
}

void RouteSocket::send(uint16_t type, uint16_t flags, std::string_view content) {
  nlmsghdr head = {};
  head.nlmsg_len = static_cast<uint32_t>(NLMSG_LENGTH(content.size()));
  head.nlmsg_type = type;
  head.nlmsg_flags = flags | NLM_F_REQUEST;
  head.nlmsg_seq = ++sequence_;
  std::string message(bytes_of(head));
  message += content;
  if (::send(fd_.get(), message.data(), message.size(), 0) != static_cast<ssize_t>(message.size()))
    throw base::sys_error("cannot ask the kernel about a network");
}

std::vector<std::string> RouteSocket::list(uint16_t type, std::string_view content) {
  send(type, NLM_F_DUMP, content);
  std::vector<std::string> found;
  for (;;) {
    const ssize_t got = ::recv(fd_.get(), buffer_.data(), buffer_.size(), MSG_TRUNC);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw base::sys_error("no answer from the kernel about a network");
    if (static_cast<size_t>(got) > buffer_.size())
      throw base::error("the kernel tells more of a network than fits");
    std::string_view rest(buffer_.data(), static_cast<size_t>(got));
    while (rest.size() >= NLMSG_HDRLEN) {
      const auto head = head_of<nlmsghdr>(rest);
      if (head.nlmsg_len < NLMSG_HDRLEN || head.nlmsg_len > rest.size()) break;
      const std::string_view inner = rest.substr(NLMSG_HDRLEN, head.nlmsg_len - NLMSG_HDRLEN);
      rest.remove_prefix(std::min<size_t>(NLMSG_ALIGN(head.nlmsg_len), rest.size()));
      if (head.nlmsg_seq != sequence_) continue;
      if (head.nlmsg_type == NLMSG_DONE) return found;
      if (head.nlmsg_type == NLMSG_ERROR)
        throw base::Error("the kernel does not list a network", -head_of<nlmsgerr>(inner).error);
      found.emplace_back(inner);
    }
  }
}

int RouteSocket::ask(uint16_t type, uint16_t flags, std::string_view content) {
  send(type, flags | NLM_F_ACK, content);
  for (;;) {
    const ssize_t got = ::recv(fd_.get(), buffer_.data(), buffer_.size(), 0);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw base::sys_error("no answer from the kernel about a network");
    const std::string_view message(buffer_.data(), static_cast<size_t>(got));
    if (message.size() < NLMSG_LENGTH(sizeof(nlmsgerr))) continue;
    const auto head = head_of<nlmsghdr>(message);
    if (head.nlmsg_type == NLMSG_ERROR && head.nlmsg_seq == sequence_)
      return -head_of<nlmsgerr>(message.substr(NLMSG_HDRLEN)).error;
  }
}

}  // namespace box
