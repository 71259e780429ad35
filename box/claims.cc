#include "box/claims.h"

#include <format>

#include "box/node.h"

namespace box {
namespace {

std::optional<Clash> clash_of(const Config& mine, const Config& theirs) {
  for (const auto& address : mine.addresses)
    for (const auto& other : theirs.addresses)
      if (address.same_host(other))
        return Clash{Clash::What::kAddress, "address " + address.host(), theirs.name};
  if (mine.mac == theirs.mac) return Clash{Clash::What::kMac, "MAC " + mine.mac.to_string(), theirs.name};
  if (mine.id_base == theirs.id_base)
    return Clash{Clash::What::kIds, std::format("range of user ids {}", mine.id_base), theirs.name};
  return std::nullopt;
}

}  // namespace

std::optional<Clash> find_clash(const base::Context& context, const Config& config) {
  for (const auto& other : all_configs(context))
    if (other.name != config.name)
      if (auto clash = clash_of(config, other)) return clash;
  return std::nullopt;
}

}  // namespace box
