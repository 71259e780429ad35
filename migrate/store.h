#pragma once
#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <span>

#include "base/fd.h"
#include "migrate/page_set.h"
#include "migrate/pages.h"

namespace migrate {

/// Memory of a box that came before its processes: of each process one file in memory, in which a page's
/// place is its address.
class Store {
 public:
  /// A newer content takes the place of an older one. Throws before this node runs out of memory. Several
  /// threads may put at once, as long as nobody does anything else here.
  void put(const Pages& pages);
  void drop(uint32_t pid) { files_.erase(pid); }
  void drop(uint32_t pid, uint64_t begin, uint64_t end);
  /// The first piece of [begin, end) that is here, cut to it.
  [[nodiscard]] std::optional<PageSet::Piece> first_in(uint32_t pid, uint64_t begin, uint64_t end) const;
  /// Of what is here.
  [[nodiscard]] Pages read(const PageRun& run) const;
  [[nodiscard]] bool empty() const { return files_.empty(); }

 private:
  struct File {
    base::Fd fd;
    PageSet held;
  };
  std::map<uint32_t, File> files_;
  std::mutex mutex_;
  uint64_t unchecked_ = 0;  ///< bytes since the node's free memory was looked at
};

}  // namespace migrate
