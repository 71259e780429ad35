#pragma once
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cstring>
#include <string>

#include "kinds.h"

inline sockaddr_in v4(const char* host, uint16_t port) {
  sockaddr_in a{};
  a.sin_family = AF_INET;
  a.sin_port = htons(port);
  inet_pton(AF_INET, host, &a.sin_addr);
  return a;
}

inline sockaddr_in6 v6(const char* host, uint16_t port) {
  sockaddr_in6 a{};
  a.sin6_family = AF_INET6;
  a.sin6_port = htons(port);
  inet_pton(AF_INET6, host, &a.sin6_addr);
  return a;
}

template <class Address>
const sockaddr* any(const Address& a) {
  return reinterpret_cast<const sockaddr*>(&a);
}

inline int new_socket(int family, int type, int protocol = 0) {
  return must(socket(family, type, protocol), "socket");
}

template <class Address>
int bound(const Address& a, int type, int protocol = 0) {
  const int fd = new_socket(any(a)->sa_family, type, protocol), on = 1;
  if (any(a)->sa_family != AF_UNIX) setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  must(bind(fd, any(a), sizeof a), "bind");
  return fd;
}

template <class Address>
int connected(const Address& a, int type = SOCK_STREAM) {
  const int fd = new_socket(any(a)->sa_family, type);
  must(connect(fd, any(a), sizeof a), "connect");
  return fd;
}

inline int option(int fd, int level, int name) {
  int value = -1;
  socklen_t size = sizeof value;
  must(getsockopt(fd, level, name, &value, &size), "getsockopt");
  return value;
}

inline sockaddr_un path_of(const std::string& name, bool abstract = false) {
  sockaddr_un a{};
  a.sun_family = AF_UNIX;
  std::memcpy(a.sun_path + (abstract ? 1 : 0), name.data(), name.size());
  return a;
}

inline void echoes(int fd, const std::string& text) {
  write_all(fd, text);
  std::string answer;
  while (answer.size() < text.size()) {
    pollfd p{fd, POLLIN, 0};
    require(poll(&p, 1, 20000) == 1, "no answer");
    const std::string piece = read_some(fd);
    require(!piece.empty(), "the connection has ended");
    answer += piece;
  }
  same(answer, text, "the answer");
}
