#include "box/images.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/rtnetlink.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/fd.h"
#include "box/image_reader.h"

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

/// Calls `change` with the content of each image that `wanted` names, and writes back what it changed.
template <class Wanted, class Change>
void change_images(int images, Wanted wanted, Change change) {
  base::Fd dir = base::open_at(images, ".", O_RDONLY | O_DIRECTORY);
  std::unique_ptr<DIR, int (*)(DIR*)> entries(::fdopendir(dir.release()), ::closedir);
  if (!entries) throw base::sys_error("cannot read the images");
  while (const dirent* e = ::readdir(entries.get())) {
    const std::string_view name = e->d_name;
    if (!wanted(name)) continue;
    const base::Fd file = base::open_at(images, e->d_name, O_RDWR | O_NOFOLLOW);
    std::vector<std::byte> bytes = read_image(file.get());
    if (change(bytes) &&
        ::pwrite(file.get(), bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size()))
      throw base::sys_error("cannot change the image {}", name);
  }
}

// Other images are CRIU's own: two magic numbers, then messages of Protocol Buffers, each behind its size in
// 4 bytes. The numbers of the fields are those of CRIU's images/fdinfo.proto and images/timerfd.proto.
constexpr uint64_t kTimerOfFile = 12, kTicks = 5, kSeconds = 7, kNanoseconds = 8, kIntervalSeconds = 9,
                   kIntervalNanoseconds = 10;

/// One field after the other of a message; a view of bytes that somebody else holds.
class Fields {
 public:
  explicit Fields(std::span<std::byte> message) : rest_(message) {}

  /// False at the end, and where the message makes no sense.
  bool next() {
    if (rest_.empty()) return false;
    const auto key = varint();
    if (!key) return false;
    number = *key >> 3;
    switch (*key & 7) {
      case 0: {
        const auto before = rest_;
        const auto found = varint();
        if (!found) return false;
        value = *found;
        bytes = before.first(before.size() - rest_.size());
        return true;
      }
      case 1:
        return take(8);
      case 2: {
        const auto size = varint();
        return size && take(*size);
      }
      case 5:
        return take(4);
      default:
        return false;
    }
  }

  uint64_t number = 0;
  uint64_t value = 0;          ///< of a number
  std::span<std::byte> bytes;  ///< what the field is made of

 private:
  bool take(uint64_t size) {
    if (size > rest_.size()) return false;
    bytes = rest_.first(size);
    rest_ = rest_.subspan(size);
    return true;
  }
  std::optional<uint64_t> varint() {
    uint64_t result = 0;
    for (unsigned shift = 0; shift < 64 && !rest_.empty(); shift += 7) {
      const auto byte = std::to_integer<uint64_t>(rest_.front());
      rest_ = rest_.subspan(1);
      result |= (byte & 0x7f) << shift;
      if (byte < 0x80) return result;
    }
    return std::nullopt;
  }

  std::span<std::byte> rest_;
};

/// A timer that has ticked, unread, and will again gets a nanosecond. False: nothing had to be changed.
bool rearm(std::span<std::byte> timer) {
  uint64_t ticks = 0, left = 0, interval = 0;
  std::span<std::byte> nanoseconds;
  for (Fields f(timer); f.next();) {
    if (f.number == kTicks) ticks = f.value;
    if (f.number == kSeconds || f.number == kNanoseconds) left += f.value;
    if (f.number == kIntervalSeconds || f.number == kIntervalNanoseconds) interval += f.value;
    if (f.number == kNanoseconds) nanoseconds = f.bytes;
  }
  if (ticks == 0 || left != 0 || interval == 0 || nanoseconds.size() != 1) return false;
  nanoseconds[0] = std::byte{1};
  return true;
}

bool rearm_all(std::vector<std::byte>& image) {
  bool changed = false;
  for (size_t offset = 8; offset + 4 <= image.size();) {
    const size_t size = at<uint32_t>(image, offset);
    offset += 4;
    if (size > image.size() - offset) break;
    for (Fields f{std::span(image).subspan(offset, size)}; f.next();)
      if (f.number == kTimerOfFile) changed = rearm(f.bytes) || changed;
    offset += size;
  }
  return changed;
}

}  // namespace

void forget_link_state(int images) {
  change_images(
      images, [](std::string_view name) { return name.starts_with("route-") || name.starts_with("route6-"); },
      clear_flags);
}

void keep_timers_armed(int images) {
  change_images(images, [](std::string_view name) { return name == "files.img"; }, rearm_all);
}

void share_images(int images, uint32_t group) {
  base::Fd dir = base::open_at(images, ".", O_RDONLY | O_DIRECTORY);
  if (::fchown(dir.get(), 0, group) != 0 || ::fchmod(dir.get(), 0750) != 0)
    throw base::sys_error("cannot share the images with the box");
  std::unique_ptr<DIR, int (*)(DIR*)> entries(::fdopendir(dir.release()), ::closedir);
  if (!entries) throw base::sys_error("cannot read the images");
  while (const dirent* e = ::readdir(entries.get())) {
    if (e->d_name[0] == '.') continue;
    const base::Fd image = base::open_at(images, e->d_name, O_RDONLY | O_NOFOLLOW);
    if (::fchown(image.get(), 0, group) != 0 || ::fchmod(image.get(), 0640) != 0)
      throw base::sys_error("cannot share the image {} with the box", e->d_name);
  }
}

}  // namespace box
