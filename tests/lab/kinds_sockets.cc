// Sockets of every family that a server has. The client machine (10.77.0.250) has on port 7001 an echo
// server, on 7002 one that reads nothing before it is told, and on 7003 one with a full backlog: no handshake
// with it ends.
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/ip_icmp.h>
#include <netinet/tcp.h>
#include <netpacket/packet.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kinds.h"

namespace {

constexpr const char* kClient = "10.77.0.250";

sockaddr_in v4(const char* host, uint16_t port) {
  sockaddr_in a{};
  a.sin_family = AF_INET;
  a.sin_port = htons(port);
  inet_pton(AF_INET, host, &a.sin_addr);
  return a;
}

sockaddr_in6 v6(const char* host, uint16_t port) {
  sockaddr_in6 a{};
  a.sin6_family = AF_INET6;
  a.sin6_port = htons(port);
  inet_pton(AF_INET6, host, &a.sin6_addr);
  return a;
}

sockaddr_un path_of(const std::string& name, bool abstract = false) {
  sockaddr_un a{};
  a.sun_family = AF_UNIX;
  std::memcpy(a.sun_path + (abstract ? 1 : 0), name.data(), name.size());
  return a;
}

template <class Address>
const sockaddr* any(const Address& a) {
  return reinterpret_cast<const sockaddr*>(&a);
}

int new_socket(int family, int type, int protocol = 0) {
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

int option(int fd, int level, int name) {
  int value = -1;
  socklen_t size = sizeof value;
  must(getsockopt(fd, level, name, &value, &size), "getsockopt");
  return value;
}

int tcp_state(int fd) {
  tcp_info info{};
  socklen_t size = sizeof info;
  must(getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size), "TCP_INFO");
  return info.tcpi_state;
}

void echoes(int fd, const std::string& text) {
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

/// Both ends of one connection over the box's loopback.
struct Pair {
  int near, far;
};
template <class Address>
Pair tcp_pair(const Address& a) {
  const int listener = bound(a, SOCK_STREAM);
  must(listen(listener, 5), "listen");
  const int near = connected(a), far = must(accept(listener, nullptr, nullptr), "accept");
  close(listener);
  return {near, far};
}

Check tcp_listen() {
  const int listener = bound(v4("0.0.0.0", 8001), SOCK_STREAM), both = bound(v6("::", 8002), SOCK_STREAM);
  must(listen(listener, 77), "listen");
  must(listen(both, 5), "listen");
  return [=] {
    same(tcp_state(listener), static_cast<int>(TCP_LISTEN), "the state");
    const int near[] = {connected(v4("127.0.0.1", 8001)), connected(v4("127.0.0.1", 8002)),
                        connected(v6("::1", 8002))};
    close(must(accept(listener, nullptr, nullptr), "accept"));
    for (int i = 0; i < 2; ++i) close(must(accept(both, nullptr, nullptr), "accept"));
    for (const int fd : near) close(fd);
  };
}

/// What has come and waits while its program thinks for a moment.
Check slow_accept() {
  unlink("slow");
  const int listeners[] = {bound(v4("0.0.0.0", 8003), SOCK_STREAM), bound(path_of("slow"), SOCK_STREAM)};
  for (const int listener : listeners) {
    must(listen(listener, 50), "listen");
    child([=] {
      for (;;) {
        pollfd p{listener, POLLIN, 0};
        if (poll(&p, 1, -1) != 1) continue;
        usleep(30000);
        const int fd = must(accept(listener, nullptr, nullptr), "accept");
        write_all(fd, read_some(fd));
        close(fd);
      }
    });
  }
  auto keeps_asking = [](const auto& address) {
    return child([=] {
      for (;; usleep(100000)) {
        const int fd = connected(address);
        echoes(fd, "early");
        close(fd);
      }
    });
  };
  const pid_t clients[] = {keeps_asking(v4("127.0.0.1", 8003)), keeps_asking(path_of("slow"))};
  return [=] {
    for (const pid_t pid : clients)
      require(waitpid(pid, nullptr, WNOHANG) == 0,
              "a client: " + (access("child.says", F_OK) == 0 ? read_file("child.says") : "?"));
  };
}

Check tcp_client() {
  const int fd = connected(v4(kClient, 7001)), fd6 = connected(v6("fd77::250", 7001));
  const int on = 1, idle = 33, mss = 1000;
  setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
  setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof idle);
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  setsockopt(fd6, IPPROTO_TCP, TCP_MAXSEG, &mss, sizeof mss);
  echoes(fd, "before");
  return [=, n = 0]() mutable {
    ++n;
    echoes(fd, "after " + std::to_string(n));
    echoes(fd6, pattern(300000, static_cast<unsigned>(n)));
    same(option(fd, SOL_SOCKET, SO_KEEPALIVE), 1, "SO_KEEPALIVE");
    same(option(fd, IPPROTO_TCP, TCP_KEEPIDLE), 33, "TCP_KEEPIDLE");
    same(option(fd, IPPROTO_TCP, TCP_NODELAY), 1, "TCP_NODELAY");
  };
}

/// The client's tests connect to it from outside.
Check tcp_server() {
  const int listener = bound(v6("::", 8010), SOCK_STREAM);
  must(listen(listener, 50), "listen");
  child([=] {
    for (;;) {
      const int fd = must(accept(listener, nullptr, nullptr), "accept");
      child([=] {
        for (std::string text; !(text = read_some(fd)).empty();) write_all(fd, text);
        write_all(fd, "the end");  // half closed: the other side has said all, we have not
      });
      close(fd);
    }
  });
  return [=] { same(tcp_state(listener), static_cast<int>(TCP_LISTEN), "the state"); };
}

Check tcp_loopback() {
  const Pair four = tcp_pair(v4("127.0.0.1", 8020)), six = tcp_pair(v6("::1", 8021));
  for (const Pair& p : {four, six}) {
    write_all(p.near, "waits there");
    write_all(p.far, "waits here");
  }
  return [=] {
    for (const Pair& p : {four, six}) {
      same(read_some(p.far), "waits there", "what was on its way");
      same(read_some(p.near), "waits here", "what was on its way");
      write_all(p.near, "waits there");
      write_all(p.far, "waits here");
    }
  };
}

Check tcp_half_closed() {
  const Pair pair = tcp_pair(v4("127.0.0.1", 8022));
  must(shutdown(pair.near, SHUT_WR), "shutdown");
  usleep(50000);
  same(read(pair.far, nullptr, 0), ssize_t{0}, "the end");
  return [=] {
    same(read_some(pair.far), "", "what comes from the closed side");
    write_all(pair.far, "still talks");
    same(read_some(pair.near), "still talks", "the other direction");
    same(tcp_state(pair.near), static_cast<int>(TCP_FIN_WAIT2), "the state");
    same(tcp_state(pair.far), static_cast<int>(TCP_CLOSE_WAIT), "the other state");
  };
}

/// The other end has gone; this one has not closed yet.
Check tcp_ended() {
  const Pair pair = tcp_pair(v4("127.0.0.1", 8023));
  write_all(pair.near, "last words");
  close(pair.near);  // FIN-WAIT-2 there, without a process
  usleep(50000);
  return [=, first = true]() mutable {
    if (first) same(read_some(pair.far), "last words", "what was sent before the end");
    first = false;
    same(read_some(pair.far), "", "the end");
  };
}

Check tcp_full_queue() {
  const int fd = connected(v4(kClient, 7002));
  fcntl(fd, F_SETFL, O_NONBLOCK);
  size_t sent = 0;
  std::string all;  // lines that say where they are
  for (int i = 0; i < 5'000'000; ++i) all += std::to_string(10'000'000 + i) + "\n";
  // Until nothing more goes in for a while: the other side reads nothing.
  for (int i = 0; i < 5; ++i, usleep(50000))
    for (ssize_t n; (n = write(fd, all.data() + sent, std::min<size_t>(65536, all.size() - sent))) > 0; i = 0)
      sent += static_cast<size_t>(n);
  int queued = 0;
  ioctl(fd, TIOCOUTQ, &queued);
  require(queued > 100000, "only " + std::to_string(queued) + " bytes wait");
  write_file("sent", std::to_string(sent));
  return [=] {
    int now = 0;
    ioctl(fd, TIOCOUTQ, &now);
    require(now > 0, "nothing waits any more");
    same(tcp_state(fd), static_cast<int>(TCP_ESTABLISHED), "the state");
  };
}

/// A connection that has ended here: its port stays taken for a minute, and the box's own program has
/// forgotten it.
Check tcp_time_wait() {
  for (uint16_t port = 8030; port < 8040; ++port) {
    const Pair pair = tcp_pair(v4("127.0.0.1", port));
    close(pair.near);
    close(pair.far);
  }
  return [] {
    const Pair pair = tcp_pair(v4("127.0.0.1", 8030));  // SO_REUSEADDR
    write_all(pair.near, "x");
    same(read_some(pair.far), "x", "a new connection on the port");
    close(pair.near);
    close(pair.far);
  };
}

Check tcp_syn_sent() {
  const int fd = new_socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK);
  const sockaddr_in to = v4(kClient, 7003);
  require(connect(fd, any(to), sizeof to) != 0 && errno == EINPROGRESS, "the handshake has ended already");
  same(tcp_state(fd), static_cast<int>(TCP_SYN_SENT), "the state");
  return [=, n = 0]() mutable {
    if (++n == 1) {
      same(tcp_state(fd), static_cast<int>(TCP_SYN_SENT), "the state");
      return;
    }
    // Then the other side lets it through.
    pollfd p{fd, POLLOUT, 0};
    require(poll(&p, 1, 60000) == 1, "the handshake never ends");
    same(option(fd, SOL_SOCKET, SO_ERROR), 0, "its error");
    fcntl(fd, F_SETFL, 0);
    echoes(fd, "hello");
  };
}

Check tcp_unconnected() {
  const int fresh = new_socket(AF_INET, SOCK_STREAM), just_bound = bound(v4("0.0.0.0", 8041), SOCK_STREAM);
  const int bytes = 50000;
  setsockopt(just_bound, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof bytes);
  return [=, first = true]() mutable {
    same(option(just_bound, SOL_SOCKET, SO_RCVBUF), 100000, "SO_RCVBUF");
    if (!first) return;
    first = false;
    must(listen(just_bound, 5), "listen");
    const sockaddr_in to = v4("127.0.0.1", 8041);
    must(connect(fresh, any(to), sizeof to), "connect");
  };
}

Check udp() {
  const int server = bound(v4("0.0.0.0", 8050), SOCK_DGRAM), server6 = bound(v6("::", 8051), SOCK_DGRAM);
  const int to4 = connected(v4("127.0.0.1", 8050), SOCK_DGRAM), to6 = connected(v6("::1", 8051), SOCK_DGRAM);
  const int on = 1;
  setsockopt(server, SOL_SOCKET, SO_BROADCAST, &on, sizeof on);
  return [=] {
    for (const auto& [from, at] : {std::pair(to4, server), {to6, server6}}) {
      write_all(from, "datagram");
      pollfd p{at, POLLIN, 0};
      same(poll(&p, 1, 5000), 1, "a datagram");
      same(read_some(at), "datagram", "it");
    }
    same(option(server, SOL_SOCKET, SO_BROADCAST), 1, "SO_BROADCAST");
  };
}

Check udp_unread() {
  const int server = bound(v4("127.0.0.1", 8054), SOCK_DGRAM);
  write_all(connected(v4("127.0.0.1", 8054), SOCK_DGRAM), "datagram");
  return [=] {
    pollfd p{server, POLLIN, 0};
    same(poll(&p, 1, 100), 1, "the number of datagrams that wait");
  };
}

Check udp_multicast() {
  const int fd = bound(v4("0.0.0.0", 8052), SOCK_DGRAM);
  ip_mreqn group{};
  inet_pton(AF_INET, "239.7.7.7", &group.imr_multiaddr);
  group.imr_ifindex = static_cast<int>(if_nametoindex("eth0"));
  must(setsockopt(fd, IPPROTO_IP, IP_ADD_MEMBERSHIP, &group, sizeof group), "IP_ADD_MEMBERSHIP");
  return [=] {
    const int out = new_socket(AF_INET, SOCK_DGRAM);
    must(setsockopt(out, IPPROTO_IP, IP_MULTICAST_IF, &group, sizeof group), "IP_MULTICAST_IF");
    const sockaddr_in to = v4("239.7.7.7", 8052);
    must(sendto(out, "to all", 6, 0, any(to), sizeof to), "sendto");
    close(out);
    pollfd p{fd, POLLIN, 0};
    same(poll(&p, 1, 3000), 1, "a datagram to the group");
    same(read_some(fd), "to all", "it");
  };
}

Check udp_multicast6() {
  const int fd = bound(v6("::", 8053), SOCK_DGRAM);
  ipv6_mreq group{};
  inet_pton(AF_INET6, "ff02::7777", &group.ipv6mr_multiaddr);
  group.ipv6mr_interface = if_nametoindex("eth0");
  must(setsockopt(fd, IPPROTO_IPV6, IPV6_ADD_MEMBERSHIP, &group, sizeof group), "IPV6_ADD_MEMBERSHIP");
  return [=] { must(fcntl(fd, F_GETFD), "the socket"); };
}

Check raw_socket() {
  const int fd = new_socket(AF_INET, SOCK_RAW, IPPROTO_ICMP);
  return [=] {
    fcntl(fd, F_SETFL, O_NONBLOCK);
    drain(fd);
    icmphdr echo{};
    echo.type = ICMP_ECHO;
    echo.checksum = htons(static_cast<uint16_t>(~(ICMP_ECHO << 8)));
    const sockaddr_in to = v4("127.0.0.1", 0);
    must(sendto(fd, &echo, sizeof echo, 0, any(to), sizeof to), "sendto");
    pollfd p{fd, POLLIN, 0};
    same(poll(&p, 1, 3000), 1, "an echo");
    drain(fd);
  };
}

Check packet_socket() {
  const int fd = new_socket(AF_PACKET, SOCK_RAW, htons(3));
  sockaddr_ll at{};
  at.sll_family = AF_PACKET;
  at.sll_protocol = htons(3);
  at.sll_ifindex = static_cast<int>(if_nametoindex("lo"));
  must(bind(fd, any(at), sizeof at), "bind");
  return [=] {
    fcntl(fd, F_SETFL, O_NONBLOCK);
    drain(fd);
    const int out = connected(v4("127.0.0.1", 9), SOCK_DGRAM);
    write_all(out, "seen by all");
    close(out);
    pollfd p{fd, POLLIN, 0};
    same(poll(&p, 1, 3000), 1, "a frame");
    require(drain(fd).contains("seen by all"), "another frame");
  };
}

Check netlink() {
  const int fd = new_socket(AF_NETLINK, SOCK_RAW | SOCK_NONBLOCK, NETLINK_ROUTE);
  sockaddr_nl at{};
  at.nl_family = AF_NETLINK;
  at.nl_groups = RTMGRP_LINK;
  must(bind(fd, any(at), sizeof at), "bind");
  return [=, up = true]() mutable {
    drain(fd);
    const int control = new_socket(AF_INET, SOCK_DGRAM);
    ifreq request{};
    std::strcpy(request.ifr_name, "lo");
    must(ioctl(control, SIOCGIFFLAGS, &request), "SIOCGIFFLAGS");
    up = !up;
    request.ifr_flags =
        static_cast<short>(up ? request.ifr_flags & ~IFF_PROMISC : request.ifr_flags | IFF_PROMISC);
    must(ioctl(control, SIOCSIFFLAGS, &request), "SIOCSIFFLAGS");
    close(control);
    pollfd p{fd, POLLIN, 0};
    same(poll(&p, 1, 3000), 1, "a message about a link");
    drain(fd);
  };
}

Check unix_sockets() {
  int stream[2], datagram[2], sequence[2];
  must(socketpair(AF_UNIX, SOCK_STREAM, 0, stream), "socketpair");
  must(socketpair(AF_UNIX, SOCK_DGRAM, 0, datagram), "socketpair");
  must(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, sequence), "socketpair");
  const int on = 1;
  int asks[2];
  must(socketpair(AF_UNIX, SOCK_DGRAM, 0, asks), "socketpair");
  must(setsockopt(asks[1], SOL_SOCKET, SO_PASSCRED, &on, sizeof on), "SO_PASSCRED");
  auto fill = [=] {
    write_all(stream[0], "one");
    write_all(stream[0], "two");
    for (const int fd : {datagram[0], sequence[0]}) {
      write_all(fd, "first");
      write_all(fd, "second");
    }
  };
  fill();
  return [=] {
    std::string text;
    while (text.size() < 6) text += read_some(stream[1], 6 - text.size());
    same(text, "onetwo", "a stream");
    for (const int fd : {datagram[1], sequence[1]}) {
      same(read_some(fd), "first", "a message");
      same(read_some(fd), "second", "a message");
    }
    same(option(asks[1], SOL_SOCKET, SO_PASSCRED), 1, "SO_PASSCRED");
    write_all(asks[0], "who");
    same(read_some(asks[1]), "who", "a message with credentials");
    fill();
  };
}

Check unix_names() {
  unlink("listens");
  const int listener = bound(path_of("listens"), SOCK_STREAM),
            hidden = bound(path_of("kinds-hidden", true), SOCK_SEQPACKET),
            datagram = bound(path_of("datagrams"), SOCK_DGRAM), gone = bound(path_of("gone"), SOCK_STREAM);
  for (const int fd : {listener, hidden, gone}) must(listen(fd, 5), "listen");
  chmod("listens", 0620);
  const int to_gone = connected(path_of("gone")), from_gone = must(accept(gone, nullptr, nullptr), "accept");
  must(unlink("gone"), "unlink");
  const int sender = connected(path_of("datagrams"), SOCK_DGRAM);
  write_all(sender, "waits");
  return [=] {
    const int near = connected(path_of("listens")), far = must(accept(listener, nullptr, nullptr), "accept");
    write_all(near, "new");
    same(read_some(far), "new", "a new connection");
    close(near);
    close(far);
    const int other = connected(path_of("kinds-hidden", true), SOCK_SEQPACKET);
    close(must(accept(hidden, nullptr, nullptr), "accept"));
    close(other);
    same(read_some(datagram), "waits", "a datagram");
    write_all(sender, "waits");
    write_all(to_gone, "still");
    same(read_some(from_gone), "still", "a connection whose name was deleted");
    struct stat s{};
    must(stat("listens", &s), "stat");
    same(static_cast<int>(s.st_mode & 0777), 0620, "the socket's mode");
  };
}

/// A descriptor that is on its way from one process to another.
Check unix_passed() {
  int pair[2];
  must(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), "socketpair");
  auto send = [=] {
    int pipes[2];
    must(pipe(pipes), "pipe");
    write_all(pipes[1], "in flight");
    close(pipes[1]);
    const int file = must(open("file", O_RDWR | O_CREAT | O_TRUNC, 0644), "file");
    write_all(file, "a file");
    lseek(file, 2, SEEK_SET);
    char byte = 'x';
    iovec vector{&byte, 1};
    alignas(cmsghdr) char space[CMSG_SPACE(2 * sizeof(int))] = {};
    msghdr message{};
    message.msg_iov = &vector;
    message.msg_iovlen = 1;
    message.msg_control = space;
    message.msg_controllen = sizeof space;
    cmsghdr* c = CMSG_FIRSTHDR(&message);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(2 * sizeof(int));
    const int both[] = {pipes[0], file};
    std::memcpy(CMSG_DATA(c), both, sizeof both);
    must(sendmsg(pair[0], &message, 0), "sendmsg");
    close(pipes[0]);
    close(file);
  };
  send();
  return [=] {
    char byte = 0;
    iovec vector{&byte, 1};
    alignas(cmsghdr) char space[CMSG_SPACE(2 * sizeof(int))] = {};
    msghdr message{};
    message.msg_iov = &vector;
    message.msg_iovlen = 1;
    message.msg_control = space;
    message.msg_controllen = sizeof space;
    same(must(recvmsg(pair[1], &message, MSG_DONTWAIT), "recvmsg"), ssize_t{1}, "a message");
    cmsghdr* c = CMSG_FIRSTHDR(&message);
    require(c && c->cmsg_type == SCM_RIGHTS && c->cmsg_len == CMSG_LEN(2 * sizeof(int)),
            "no descriptors came");
    int both[2];
    std::memcpy(both, CMSG_DATA(c), sizeof both);
    same(read_some(both[0]), "in flight", "the pipe's content");
    same(read_some(both[1]), "file", "the file from its offset on");
    close(both[0]);
    close(both[1]);
    send();
  };
}

Check unix_peers() {
  unlink("talk");
  const int listener = bound(path_of("talk"), SOCK_STREAM);
  must(listen(listener, 5), "listen");
  child([=] {
    const int fd = must(accept(listener, nullptr, nullptr), "accept");
    for (std::string text; !(text = read_some(fd)).empty();) write_all(fd, text);
  });
  const int fd = connected(path_of("talk"));
  close(listener);
  return [=] {
    echoes(fd, pattern(50000, 9));
    ucred peer{};
    socklen_t size = sizeof peer;
    must(getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size), "SO_PEERCRED");
  };
}

/// Go's net.Listen asks for it first.
Check mptcp() {
  const int listener = socket(AF_INET, SOCK_STREAM, IPPROTO_MPTCP);
  const int fd = listener >= 0 ? listener : new_socket(AF_INET, SOCK_STREAM);  // as Go does
  const sockaddr_in at = v4("0.0.0.0", 8060);
  must(bind(fd, any(at), sizeof at), "bind");
  must(listen(fd, 5), "listen");
  return [=] {
    const int near = connected(v4("127.0.0.1", 8060)), far = must(accept(fd, nullptr, nullptr), "accept");
    write_all(near, "x");
    same(read_some(far), "x", "a connection");
    close(near);
    close(far);
  };
}

}  // namespace

const Kind kSocketKinds[] = {{"tcp-listen", tcp_listen},
                             {"slow-accept", slow_accept},
                             {"tcp-client", tcp_client},
                             {"tcp-server", tcp_server},
                             {"tcp-loopback", tcp_loopback},
                             {"tcp-half-closed", tcp_half_closed},
                             {"tcp-ended", tcp_ended},
                             {"tcp-full-queue", tcp_full_queue},
                             {"tcp-time-wait", tcp_time_wait},
                             {"tcp-syn-sent", tcp_syn_sent},
                             {"tcp-unconnected", tcp_unconnected},
                             {"udp", udp},
                             {"udp-unread", udp_unread},
                             {"udp-multicast", udp_multicast},
                             {"udp-multicast6", udp_multicast6},
                             {"raw-socket", raw_socket},
                             {"packet-socket", packet_socket},
                             {"netlink", netlink},
                             {"unix-sockets", unix_sockets},
                             {"unix-names", unix_names},
                             {"unix-passed", unix_passed},
                             {"unix-peers", unix_peers},
                             {"mptcp", mptcp},
                             {}};
