#pragma once
#include <string>

namespace box {

std::string criu_version();
/// Whether this node can restore a box before its memory is here (userfaultfd(2) with fork, remap and unmap
/// events).
bool can_restore_lazily();

/// After a crash of ours CRIU may still be at work on the box, and letting go of it. Returns when
/// nobody holds `lock` any more; throws after a minute.
void wait_for_criu(const std::string& lock);

}  // namespace box
