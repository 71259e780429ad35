#pragma once
#include <cstdint>
#include <string_view>
#include <vector>

#include "migrate/tree_blocks.h"
#include "migrate/tree_compare.h"
#include "migrate/tree_snapshot.h"

namespace migrate {

/// A large file that the other side has under another name, or in another directory.
struct Rename {
  uint32_t old, now;                       ///< its nodes
  std::vector<std::string_view> from, to;  ///< from the root down, the file's own name at the end
};

/// Those that can be renamed on the other side before anything else is done there, in this order, so that
/// only what differs in them has to be sent. Not those whose new directory is not there yet, nor one of those
/// that take each other's names in a circle.
std::vector<Rename> find_renames(const TreeSnapshot& before, const TreeSnapshot& now,
                                 const TreeDifference& difference, const SentContents& contents);

}  // namespace migrate
