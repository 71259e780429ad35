#pragma once
#include <cstdint>
#include <map>
#include <utility>
#include <vector>

#include "migrate/pages.h"

namespace migrate {

/// The pages that the destination has asked the source for and that are on their way: none is asked for
/// twice.
class Asked {
 public:
  /// Asks for pages [begin, end) of a process, but for those on their way. `urgent`: before all others that
  /// were not taken yet.
  void want(uint32_t pid, uint64_t begin, uint64_t end, bool urgent);
  /// What the source is to be told, once.
  [[nodiscard]] std::vector<PageRun> take() { return std::exchange(to_send_, {}); }
  /// Throws when the run that came is none of those.
  void require(const PageRun& run) const;
  /// It has come, and is where it belongs.
  void done(const PageRun& run);
  /// The connection on which all of it was to come is gone.
  void forget() { *this = {}; }
  [[nodiscard]] uint64_t bytes() const { return bytes_; }

 private:
  std::map<uint32_t, std::map<uint64_t, uint64_t>> on_their_way_;  ///< pid → begin → end
  uint64_t bytes_ = 0;
  std::vector<PageRun> to_send_;
};

}  // namespace migrate
