// TCP. The client machine (10.77.0.250) has on port 7001 an echo server, on 7002 one that reads nothing
// before it is told, on 7003 one with a full backlog: no handshake with it ends. 7004 says all and goes on
// listening, 7005 hears all and goes on talking.
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kinds_sockets.h"

namespace {

constexpr const char* kClient = "10.77.0.250";

int tcp_state(int fd) {
  tcp_info info{};
  socklen_t size = sizeof info;
  must(getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size), "TCP_INFO");
  return info.tcpi_state;
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

/// One end is outside the box: on one connection it has said all, on the other this one has.
Check tcp_half_closed_outside() {
  const int talks = connected(v4(kClient, 7004)), listens = connected(v4(kClient, 7005));
  same(read_some(talks), "all", "what the other end says");
  same(read_some(talks), "", "its end");
  must(shutdown(listens, SHUT_WR), "shutdown");
  same(read_some(listens).substr(0, 4), "tick", "what it still says");
  must(fcntl(listens, F_SETFL, O_NONBLOCK), "O_NONBLOCK");
  return [=, n = 0]() mutable {
    same(tcp_state(talks), static_cast<int>(TCP_CLOSE_WAIT), "the state");
    same(tcp_state(listens), static_cast<int>(TCP_FIN_WAIT2), "the other state");
    write_all(talks, "still " + std::to_string(++n) + " ");
    same(read_some(talks), "", "the end");
    drain(listens);  // of before the move
    pollfd p{listens, POLLIN, 0};
    same(poll(&p, 1, 5000), 1, "what comes after the move");
    same(read_some(listens).substr(0, 4), "tick", "it");
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

const Kind kTcpKinds[] = {{"tcp-listen", tcp_listen},
                          {"slow-accept", slow_accept},
                          {"tcp-client", tcp_client},
                          {"tcp-server", tcp_server},
                          {"tcp-loopback", tcp_loopback},
                          {"tcp-half-closed", tcp_half_closed},
                          {"tcp-half-closed-outside", tcp_half_closed_outside},
                          {"tcp-ended", tcp_ended},
                          {"tcp-full-queue", tcp_full_queue},
                          {"tcp-time-wait", tcp_time_wait},
                          {"tcp-syn-sent", tcp_syn_sent},
                          {"tcp-unconnected", tcp_unconnected},
                          {"mptcp", mptcp},
                          {}};
