#pragma once
#include <string>
#include <thread>
#include <vector>

namespace migrate {

/// Reads files of a box's layers while it still runs on the other node: so neither its restore nor its first
/// steps here wait for the disk. Stops at the destruction.
class ReadAhead {
 public:
  /// `layers`: where they are mounted, the top one first. `files`: paths below them, not trusted; what is not
  /// there, or no regular file, is left out, as is what comes after 256 MiB.
  ReadAhead(std::vector<std::string> layers, std::vector<std::string> files);

 private:
  std::jthread thread_;
};

}  // namespace migrate
