#pragma once

namespace box {

/// Takes out of CRIU's images of routes (`route-N.img`, `route6-N.img` in the directory `images`) what the
/// kernel tells of a route and does not take back: that its link is down. As CRIU 4.2 and Linux 6.18 are, a
/// box that has a bridge without ports could not be restored ("Invalid rtm_flags").
void forget_link_state(int images);

}  // namespace box
