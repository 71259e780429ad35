#pragma once
#include <sys/stat.h>

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace migrate {

/// What a tree looks like on the wire; docs/formats/move-wire.md has it byte by byte. Numbers are
/// little-endian. A round is the magic, a byte of flags, records, kEnd.
inline constexpr std::string_view kTreeMagic = "DRVTREE1";
enum TreeFlag : uint8_t { kRoundZero = 1 };

enum class Tag : uint8_t {
  kEnter = 1,    ///< name, EnterFlag: what follows is in it
  kLeave = 2,    ///< metadata of the directory that ends here
  kFile = 3,     ///< name, link id, size, extents, metadata
  kSymlink = 4,  ///< name, link id, target, metadata
  kNode = 5,     ///< name, link id, NodeKind, metadata
  kLink = 6,     ///< name, link id of a file of this round
  kRemove = 7,   ///< name, and what is below
  kTimes = 8,    ///< name, atime, mtime: nothing else about it has changed
  kEnd = 9,
  kPatch = 10,   ///< name, size, pieces, metadata: what differs in a file that has no other name
  kRename = 11,  ///< two paths: of a file that has no other name. Before all others
};

enum class PieceKind : uint8_t {
  kEnd = 0,
  kExtent = 1,  ///< length, offset, data
  kHole = 2,    ///< length, offset
};

enum EnterFlag : uint8_t { kFresh = 1 };  ///< replaces what has the name, and is empty

enum class NodeKind : uint8_t { kFifo = 1, kSocket = 2, kWhiteout = 3 };  ///< whiteout: char 0:0

/// Bounds that the receiver checks before it uses what it was told.
inline constexpr size_t kMaxExtent = 1 << 20;       ///< bytes of one extent; longer ones come in pieces
inline constexpr size_t kMaxTarget = 4095;          ///< of a symlink (PATH_MAX less the NUL)
inline constexpr size_t kMaxXattrValue = 64 << 10;  ///< XATTR_SIZE_MAX
inline constexpr size_t kMaxXattrNames = 64 << 10;  ///< XATTR_LIST_MAX: all names of one file
inline constexpr uint32_t kNanoseconds = 1'000'000'000;

/// An extended attribute that travels. Of trusted.overlay.* these are the ones that say something
/// about the layer; the others (origin, impure, nlink, upper, uuid, index) belong to one mount,
/// and would be wrong on another node.
constexpr bool xattr_travels(std::string_view name) {
  constexpr std::string_view kOverlay = "trusted.overlay.";
  if (name.starts_with(kOverlay)) {
    std::string_view rest = name.substr(kOverlay.size());
    return rest == "opaque" || rest == "redirect" || rest == "whiteout" || rest == "whiteouts" ||
           rest == "protattr";
  }
  return name == "system.posix_acl_access" || name == "system.posix_acl_default" ||
         (name.starts_with("user.") && name.size() > 5) ||
         (name.starts_with("trusted.") && name.size() > 8) ||
         (name.starts_with("security.") && name.size() > 9);
}

inline bool is_whiteout(const struct stat& status) { return S_ISCHR(status.st_mode) && status.st_rdev == 0; }

}  // namespace migrate
