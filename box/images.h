#pragma once
#include <cstdint>

namespace box {

// Beside CRIU's images: the control groups of a box that divides its own (docs/formats/box-images.md).
inline constexpr const char* kGroups = "/groups.json";
// Likewise, a network namespace that CRIU leaves to us (docs/formats/box-network.md).
inline constexpr const char* kNetwork = "/network.json";
// The devices that crun binds into a box from the node: CRIU takes them out by path and puts
// the other node's in.
inline constexpr const char* kDevices[] = {"null", "zero", "full", "tty", "random", "urandom"};

/// Takes out of CRIU's images of routes (`route-N.img`, `route6-N.img` in the directory `images`) what the
/// kernel tells of a route and does not take back: that its link is down. As CRIU 4.2 and Linux 6.18 are, a
/// box that has a bridge without ports could not be restored ("Invalid rtm_flags").
void forget_link_state(int images);

/// A timerfd with an interval that has expired and has not been read yet has no time left until its next tick
/// (timerfd_create(2); Linux starts it again at the read). CRIU 4.2 would set it to that, which disarms it
/// for ever. Here it gets a nanosecond.
void keep_timers_armed(int images);

/// CRIU 4.2 keeps one record of a file that a process has open and another one was started from. Where the
/// first has opened it as a path only (O_PATH), as systemd does with its own helper program, the second
/// cannot be restored ("PR_SET_MM_MAP failed with -9"). Such a file is opened for reading instead, for both
/// of them.
void open_executables(int images);

/// Some images are opened by the restored tasks: in the box's user namespace already, first still with root's
/// id and later with the box's. So they stay root's, and the box's group may read them.
void share_images(int images, uint32_t group);

}  // namespace box
