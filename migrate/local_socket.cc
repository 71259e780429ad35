#include "migrate/local_socket.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <format>

#include "base/error.h"

namespace migrate {
namespace {

// Who connects need not wait for an accept(2).
constexpr int kBacklog = 16;

base::Fd make_socket() {
  base::Fd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd) throw base::sys_error("cannot make a socket");
  return fd;
}

/// Through the directory's descriptor.
sockaddr_un address_in(const base::Fd& dir, const std::string& name) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::format("/proc/self/fd/{}/{}", dir.get(), name).copy(address.sun_path, sizeof address.sun_path - 1);
  return address;
}

}  // namespace

base::Fd listen_in(const std::string& dir, const std::string& name) {
  const base::Fd at = base::open(dir, O_RDONLY | O_DIRECTORY);
  base::Fd fd = make_socket();
  const sockaddr_un address = address_in(at, name);
  ::unlinkat(at.get(), name.c_str(), 0);
  if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 ||
      ::listen(fd.get(), kBacklog) != 0)
    throw base::sys_error("cannot listen in {}", dir);
  return fd;
}

base::Fd connect_in(const std::string& dir, const std::string& name) {
  const base::Fd at = base::open(dir, O_RDONLY | O_DIRECTORY);
  base::Fd fd = make_socket();
  const sockaddr_un address = address_in(at, name);
  if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0)
    throw base::sys_error("cannot reach who listens in {}", dir);
  return fd;
}

}  // namespace migrate
