// Sockets of every other family that a server has.
#include "kinds_sockets.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/ip_icmp.h>
#include <netpacket/packet.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

namespace {

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

}  // namespace

const Kind kSocketKinds[] = {{"udp", udp},
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
                             {}};
