#include "box/images.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/rtnetlink.h>
#include <unistd.h>

#include <cstring>
#include <memory>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/fd.h"

namespace box {
namespace {

// These images are raw: what `ip route save` writes, which is this number (iproute2, ip/iproute.c), then
// netlink messages as the kernel sends them.
constexpr uint32_t kRouteDump = 0x45311224;

template <class T>
T at(const std::vector<std::byte>& bytes, size_t offset) {
  T value;
  std::memcpy(&value, bytes.data() + offset, sizeof value);
  return value;
}

/// False: nothing had to be changed.
bool clear_flags(std::vector<std::byte>& bytes) {
  bool changed = false;
  if (bytes.size() < sizeof kRouteDump || at<uint32_t>(bytes, 0) != kRouteDump) return false;
  for (size_t offset = sizeof kRouteDump; offset + NLMSG_LENGTH(sizeof(rtmsg)) <= bytes.size();) {
    const auto header = at<nlmsghdr>(bytes, offset);
    if (header.nlmsg_len < NLMSG_LENGTH(sizeof(rtmsg))) return changed;
    const size_t place = offset + NLMSG_HDRLEN;
    auto route = at<rtmsg>(bytes, place);
    if (header.nlmsg_type == RTM_NEWROUTE && (route.rtm_flags & (RTNH_F_DEAD | RTNH_F_LINKDOWN)) != 0) {
      route.rtm_flags &= ~static_cast<unsigned>(RTNH_F_DEAD | RTNH_F_LINKDOWN);
      std::memcpy(bytes.data() + place, &route, sizeof route);
      changed = true;
    }
    offset += NLMSG_ALIGN(header.nlmsg_len);
  }
  return changed;
}

}  // namespace

void forget_link_state(int images) {
  base::Fd dir = base::open_at(images, ".", O_RDONLY | O_DIRECTORY);
  std::unique_ptr<DIR, int (*)(DIR*)> entries(::fdopendir(dir.release()), ::closedir);
  if (!entries) throw base::sys_error("cannot read the images");
  while (const dirent* e = ::readdir(entries.get())) {
    const std::string_view name = e->d_name;
    if (!name.starts_with("route-") && !name.starts_with("route6-")) continue;
    const base::Fd file = base::open_at(images, e->d_name, O_RDWR | O_NOFOLLOW);
    std::vector<std::byte> bytes(static_cast<size_t>(::lseek(file.get(), 0, SEEK_END)));
    ::lseek(file.get(), 0, SEEK_SET);
    base::read_full(file.get(), bytes);
    if (clear_flags(bytes) &&
        ::pwrite(file.get(), bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size()))
      throw base::sys_error("cannot change the image {}", name);
  }
}

}  // namespace box
