#pragma once
#include <array>
#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "base/fd.h"
#include "box/address.h"

namespace box {

/// A frame that was on its way into a box, as the node's kernel has it: its checksum may still have to be
/// filled in, and it may be a segment of up to 64 KiB that has yet to be cut into frames. `offload`
/// (struct virtio_net_hdr, linux/virtio_net.h; little-endian) says so, and is for a kernel to check.
struct CaughtFrame {
  std::array<std::byte, 10> offload = {};
  std::vector<std::byte> bytes;  ///< from the destination's MAC on, untagged, without check sequence

  bool operator==(const CaughtFrame&) const = default;
};

/// Bounds of what is caught of one freeze: what comes later is lost, as all of it would be otherwise.
inline constexpr size_t kMostFrames = 512;
inline constexpr size_t kMostFrameBytes = 1'000'000;  ///< of all together
inline constexpr size_t kShortestFrame = 14;          ///< an Ethernet header
inline constexpr size_t kLongestFrame = 65'550;       ///< and the largest IP packet, rounded up

/// IPv4, IPv6 or ARP for this MAC and no other, and within the bounds of a frame.
bool is_for(const Mac& mac, std::span<const std::byte> frame);

/// Keeps what a Gate diverts (Gate::divert), from its construction on, in a queue in the kernel: it needs
/// no thread. Works in the caller's network namespace. Make it before there is a hurry; the kernel lets
/// its destruction, like a Gate's, wait for an RCU grace period.
///
/// The diverted frames are exactly those that the node's bridge was about to deliver to the box: behind the
/// anti-spoofing rules of the node's other boxes, each of them once.
class [[nodiscard]] FrameCatcher {
 public:
  explicit FrameCatcher(const Mac& mac);
  /// What has come since the last call, in order of arrival, within the bounds.
  std::vector<CaughtFrame> take();

 private:
  Mac mac_;
  base::Fd fd_;
};

/// Puts frames into a box's cable at its host end, in their order: the rules for what may go into the box
/// apply. Those that are not for its MAC, and those that the kernel does not take, are left out.
/// Returns how many went in.
size_t play_frames(const std::string& host_end, const Mac& mac, std::span<const CaughtFrame> frames);

}  // namespace box
