#pragma once
#include <sys/types.h>

#include <string>

namespace box {

/// Writes down among the images the pid that was given out last in the box of which `init` is a process: what
/// is forked next gets the one behind it (pid_namespaces(7)). Without it the numbers of a restored box would
/// begin anew behind those of its processes, and what has kept the number of one that has ended, as systemd's
/// journal does, would soon mean another.
void record_last_pid(const std::string& images, pid_t init);
/// Throws where what is there cannot be a pid. Images of a version that did not write it change nothing.
void restore_last_pid(const std::string& images, pid_t init);

}  // namespace box
