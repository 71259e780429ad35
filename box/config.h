#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "box/address.h"
#include "templates/manifest.h"

namespace box {

/// How many user and group ids a box has of its own.
inline constexpr uint32_t kIdCount = 65536;

/// Sizes of a private layer that is an image. Smaller ones have no room for ext4's journal; of more a move
/// could not know block by block what it has sent (migrate/tree_blocks.h).
/// What JSON has exactly everywhere (RFC 8259, 6). More than any box gets to: the other node is asked for
/// half of it.
inline constexpr uint64_t kMostEpoch = uint64_t{1} << 53;
inline constexpr uint64_t kLeastImage = uint64_t{64} << 20, kMostImage = uint64_t{32} << 30;

/// All that makes a box this box, and that travels with it: STATE/boxes/NAME/box.json
/// (docs/formats/box.md). The template's layers and its start are taken over at creation, so
/// that a newer version of the template changes no box.
struct Config {
  std::string name;
  std::string uuid;                      ///< 32 hex digits: which box this is, whatever its name
  std::string template_ref;              ///< name@version
  std::vector<templates::Layer> layers;  ///< bottom first
  templates::Start start;
  uint64_t image_bytes = 0;  ///< size of the private layer's image; 0: it is a directory (volume.h)
  std::string bridge;
  Mac mac;
  std::vector<Address> addresses;  ///< each with a prefix length
  std::vector<Address> gateways;   ///< default routes; at most one for each family
  uint32_t id_base = 0;            ///< on the node, the box's ids are id_base … id_base + 65535
  uint64_t epoch = 1;              ///< grows each time the box changes owner; at most kMostEpoch
  int64_t created = 0;             ///< seconds since 1970
  std::string last_move;           ///< id of the move that brought it here; empty when created here

  /// Throws an Error that names the key. A Config also arrives from another node, so nothing in
  /// the text is trusted.
  static Config parse(std::string_view json);
  [[nodiscard]] std::string render() const;
};

/// 32 hex digits, as a box's or a move's.
bool is_hex_id(std::string_view id);

/// [a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?, as a host name's label (RFC 1123): it becomes one.
void check_name(std::string_view name);

}  // namespace box
