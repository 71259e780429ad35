#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "base/context.h"

namespace rootfs {

/// Everything below, children before their directory.
std::vector<std::string> paths_below(const std::string& root);

struct TreeSize {
  uint64_t bytes = 0;        ///< of its files
  uint64_t most_packed = 0;  ///< no image of it is larger
};

/// Makes the tree independent of when it was built: no time is later than `clock`, no sockets.
/// Throws when a file belongs to an id above kLastId.
TreeSize settle(const std::string& root, int64_t clock);

/// How a tree becomes an erofs image; the same tree and values give the same bytes.
struct Erofs {
  std::string root;         ///< the tree
  int64_t clock = 0;        ///< seconds since 1970: the image's own time
  std::string uuid;         ///< of the file system
  std::string compression;  ///< as mkfs.erofs -z takes it, such as "zstd,level=3"
  unsigned cluster = 4096;  ///< bytes that are compressed as one, at most
  std::vector<std::string> more = {};
  std::string no_space_hint = {};  ///< what to do where there is no room for it
};

/// Makes `file`. `most` is how large it can become (TreeSize::most_packed): it throws when that is not free.
void make_erofs(base::Context& context, const Erofs& erofs, uint64_t most, const std::string& file);

/// A UUID that is the same for the same seed (of version 4 by its form).
std::string uuid_from(const std::string& seed);

}  // namespace rootfs
