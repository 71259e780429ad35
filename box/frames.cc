#include "box/frames.h"

#include <linux/filter.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "base/error.h"

namespace box {

namespace {

/// Above the bounds of what is taken, counted as the kernel does: a small frame takes up to 2.3 kB.
constexpr int kQueueBytes = 2 << 20;

void set(int fd, int level, int option, int value, const char* what) {
  if (setsockopt(fd, level, option, &value, sizeof value) != 0)
    throw base::sys_error("cannot {} a packet socket", what);
}

base::Fd packet_socket() {
  // Protocol 0: nothing comes in before it is bound.
  base::Fd fd(socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) throw base::sys_error("cannot open a packet socket");
  set(fd.get(), SOL_PACKET, PACKET_VNET_HDR, 1, "see the checksums and segments of");
  return fd;
}

void bind_to(const base::Fd& fd, const std::string& link, uint16_t protocol) {
  sockaddr_ll where = {};
  where.sll_family = AF_PACKET;
  where.sll_protocol = htons(protocol);
  where.sll_ifindex = static_cast<int>(if_nametoindex(link.c_str()));
  if (where.sll_ifindex == 0) throw base::error("there is no interface {} on this node", link);
  if (bind(fd.get(), reinterpret_cast<const sockaddr*>(&where), sizeof where) != 0)
    throw base::sys_error("cannot use {}", link);
}

uint16_t type_of(std::span<const std::byte> frame) {
  return static_cast<uint16_t>(std::to_integer<unsigned>(frame[12]) << 8 |
                               std::to_integer<unsigned>(frame[13]));
}

}  // namespace

bool is_for(const Mac& mac, std::span<const std::byte> frame) {
  if (frame.size() < kShortestFrame || frame.size() > kLongestFrame) return false;
  if (!std::ranges::equal(frame.first(6), std::as_bytes(std::span(mac.bytes)))) return false;
  const uint16_t type = type_of(frame);
  return type == ETH_P_IP || type == ETH_P_IPV6 || type == ETH_P_ARP;
}

FrameCatcher::FrameCatcher(const Mac& mac) : mac_(mac), fd_(packet_socket()) {
  const uint32_t high =
      static_cast<uint32_t>(mac.bytes[0] << 24 | mac.bytes[1] << 16 | mac.bytes[2] << 8 | mac.bytes[3]);
  const auto low = static_cast<uint32_t>(mac.bytes[4] << 8 | mac.bytes[5]);
  // On lo a frame is seen as it goes out, and again as it comes in.
  std::array<sock_filter, 8> ours = {{
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, high, 0, 5),
      BPF_STMT(BPF_LD | BPF_H | BPF_ABS, 4),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, low, 0, 3),
      BPF_STMT(BPF_LD | BPF_B | BPF_ABS, static_cast<uint32_t>(SKF_AD_OFF + SKF_AD_PKTTYPE)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, PACKET_OUTGOING, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, 0x40000),
      BPF_STMT(BPF_RET | BPF_K, 0),
  }};
  const sock_fprog program = {static_cast<unsigned short>(ours.size()), ours.data()};
  if (setsockopt(fd_.get(), SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program) != 0)
    throw base::sys_error("cannot filter a packet socket");
  set(fd_.get(), SOL_SOCKET, SO_RCVBUFFORCE, kQueueBytes, "size the queue of");
  bind_to(fd_, "lo", ETH_P_ALL);
}

std::vector<CaughtFrame> FrameCatcher::take() {
  std::vector<CaughtFrame> taken;
  std::vector<std::byte> buffer(kLongestFrame + 1);
  for (size_t bytes = 0; taken.size() < kMostFrames;) {
    CaughtFrame frame;
    std::array<iovec, 2> parts = {
        {{frame.offload.data(), frame.offload.size()}, {buffer.data(), buffer.size()}}};
    const ssize_t got = readv(fd_.get(), parts.data(), parts.size());
    if (got < 0 && errno == EAGAIN) break;
    // EINVAL: a kind of segment that the header has no word for. The frame is lost.
    if (got < 0 && (errno == EINTR || errno == EINVAL)) continue;
    if (got < 0) throw base::sys_error("cannot take the frames that have come for the box");
    if (static_cast<size_t>(got) <= frame.offload.size()) continue;
    const auto content = std::span(buffer).first(static_cast<size_t>(got) - frame.offload.size());
    if (!is_for(mac_, content)) continue;
    if (bytes + content.size() > kMostFrameBytes) break;
    bytes += content.size();
    frame.bytes.assign(content.begin(), content.end());
    taken.push_back(std::move(frame));
  }
  return taken;
}

size_t play_frames(const std::string& host_end, const Mac& mac, std::span<const CaughtFrame> frames) {
  if (frames.empty()) return 0;
  const base::Fd fd = packet_socket();
  bind_to(fd, host_end, 0);
  size_t played = 0;
  for (const CaughtFrame& frame : frames) {
    if (!is_for(mac, frame.bytes)) continue;
    // writev takes no pointers to const.
    std::array<iovec, 2> parts = {{{const_cast<std::byte*>(frame.offload.data()), frame.offload.size()},
                                   {const_cast<std::byte*>(frame.bytes.data()), frame.bytes.size()}}};
    if (writev(fd.get(), parts.data(), parts.size()) > 0) ++played;
  }
  return played;
}

}  // namespace box
